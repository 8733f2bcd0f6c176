package world

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestLinear(t *testing.T) {
	w := func(v value, call, ret moment) event { return event{v: v, write: true, call: call, ret: ret} }
	r := func(v value, call, ret moment) event { return event{v: v, call: call, ret: ret} }
	for _, c := range []struct {
		name   string
		events []event
		ok     bool
	}{
		{"in order", []event{w(1, 1, 2), r(1, 3, 4), w(2, 5, 6), r(2, 7, 8)}, true},
		{"the beginning", []event{r(0, 1, 2), w(1, 3, 4)}, true},
		{"stale read", []event{w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)}, false},
		{"lost write", []event{w(1, 1, 2), r(0, 3, 4)}, false},
		{"either of two at once", []event{w(1, 1, 5), w(2, 2, 4), r(1, 6, 7)}, true},
		{"flips back", []event{w(1, 1, 2), w(2, 3, never), r(2, 4, 5), r(1, 6, 7)}, false},
		{"takes effect late", []event{w(1, 1, 2), w(2, 3, never), r(1, 4, 5), r(2, 6, 7)}, true},
		{"never written", []event{w(1, 1, 2), r(9, 3, 4)}, false},
		{"read before written", []event{r(1, 1, 2), w(1, 3, 4)}, false},
		{"zeros twice", []event{w(0, 1, 2), w(1, 3, 4), w(0, 5, 6), r(0, 7, 8)}, true},
		{"zeros lost", []event{w(1, 1, 2), w(0, 3, 4), r(1, 5, 6)}, false},
	} {
		if err := linear(c.events, []value{0}); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestLinearAgreesWithSearch compares the fast check with the exhaustive one.
func TestLinearAgreesWithSearch(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	wrong := 0
	for range 3000 {
		var events []event
		values := 1 + rng.IntN(4)
		for i := range 2 + rng.IntN(7) {
			call := moment(rng.IntN(20))*100 + moment(i)
			e := event{call: call, ret: call + moment(rng.IntN(800)) + 10, v: value(rng.IntN(values + 1))}
			if i < values {
				e.write, e.v = true, value(i+1)
				if rng.IntN(5) == 0 {
					e.ret = never
				}
			}
			events = append(events, e)
		}
		fast, slow := linear(events, []value{0}), search(events, []value{0})
		if (fast == nil) != (slow == nil) {
			t.Fatalf("fast says %v, search says %v:\n%s", fast, slow, printed(events))
		}
		if fast != nil {
			wrong++
		}
	}
	if wrong < 300 || wrong > 2700 {
		t.Errorf("%d of 3000 histories were wrong: no fair test", wrong)
	}
}

func TestSurvivors(t *testing.T) {
	events := []event{
		{v: 1, write: true, call: 1, ret: 2},
		{v: 2, write: true, call: 3, ret: 4},
		{v: 3, write: true, call: 20, ret: 21},
		{v: 4, write: true, call: 22, ret: never},
	}
	got := survivors(events, []value{0}, 10)
	if len(got) != 3 || got[0] != 2 || got[1] != 3 || got[2] != 4 {
		t.Errorf("%v may survive a flush at 10, want 2, 3 and 4", got)
	}
	if got := survivors(events, []value{0}, before); len(got) != 5 {
		t.Errorf("%v may survive without a flush, want all", got)
	}
	events[1].fua, events[3].fua = true, true // the last one was never acknowledged
	if got := survivors(events, []value{0}, before); !slices.Equal(got, []value{2, 3, 4}) {
		t.Errorf("%v may survive a write with FUA, want 2, 3 and 4", got)
	}
}

// TestLedgerOfARollback has a VDI rolled back to what a snapshot holds: nothing
// else may be read then, and what comes later counts as before.
func TestLedgerOfARollback(t *testing.T) {
	for _, c := range []struct {
		name string
		read int // which of the writes the read sees
		ok   bool
	}{
		{"the snapshot's value", 0, true},
		{"what was rolled back", 1, false},
		{"what was written since", 2, true},
	} {
		l := NewLedger()
		l.Create("disk", cellSize)
		var wrote [3][]byte
		write := func(i int) {
			wrote[i] = make([]byte, cellSize)
			l.Write(1, "disk", wrote[i], 0).Done(nil)
		}
		write(0)
		s := l.Snapshot("disk", "s")
		l.Taken(s)
		_ = l.SawSnap(s, wrote[0]) // Check reports what is wrong
		unknown := l.Snapshot("disk", "unknown")
		write(1)
		l.RolledBack("disk", s)
		if c.read == 2 {
			write(2)
		}
		_ = l.Read(1, "disk", cellSize, 0).Saw(wrote[c.read])
		_ = l.SawSnap(unknown, wrote[0]) // taken before the rollback or after it
		err := l.Check(rand.New(rand.NewPCG(1, 2)))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A hole that a client was told of stood in the ledger as a read of 0, so that a wrong
// answer about holes looked like lost bytes.
func TestLedgerNamesAHole(t *testing.T) {
	l := NewLedger()
	l.Create("v", 2*cellSize)
	p := make([]byte, 2*cellSize)
	l.Write(1, "v", p, 0).Done(nil)
	l.Read(2, "v", len(p), 0).SawHole(0, cellSize)
	err := l.Check(rand.New(rand.NewPCG(1, 1)))
	if err == nil {
		t.Fatal("a hole where something was written is not found")
	}
	if text := err.Error(); !strings.Contains(text, "client 2 was told of a hole") || strings.Contains(text, "read 0") {
		t.Errorf("the ledger has\n%s", text)
	}
}
