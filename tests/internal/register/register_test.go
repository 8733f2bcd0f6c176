package register

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

func w(client int, v Value, call, ret time.Duration) Op {
	return Op{Client: client, Write: true, Value: v, Call: call, Return: ret}
}

func r(client int, v Value, call, ret time.Duration) Op {
	return Op{Client: client, Value: v, Call: call, Return: ret}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		ok   bool
		ops  []Op
	}{
		{"nothing", true, nil},
		{"initial", true, []Op{r(1, 0, 1, 2)}},
		{"in a row", true, []Op{w(1, 1, 1, 2), r(2, 1, 3, 4), w(1, 2, 5, 6), r(2, 2, 7, 8)}},
		{"stale read", false, []Op{w(1, 1, 1, 2), w(1, 2, 3, 4), r(2, 1, 5, 6)}},
		{"lost write", false, []Op{w(1, 1, 1, 2), r(2, 0, 3, 4)}},
		{"reads flip", false, []Op{w(1, 1, 1, 10), r(2, 1, 2, 3), r(2, 0, 4, 5)}},
		{"reads do not flip", true, []Op{w(1, 1, 1, 10), r(2, 0, 2, 3), r(2, 1, 4, 5)}},
		{"unknown write is seen later", true, []Op{w(1, 1, 1, Never), r(2, 0, 5, 6), r(2, 1, 7, 8)}},
		{"unknown write is never seen", true, []Op{w(1, 1, 1, Never), w(2, 2, 2, 3), r(2, 2, 5, 6)}},
		{"unknown write is seen and gone", false, []Op{w(1, 1, 1, Never), r(2, 1, 5, 6), r(2, 0, 7, 8)}},
		{"from nowhere", false, []Op{r(1, 9, 1, 2)}},
		{"from the future", false, []Op{r(1, 1, 1, 2), w(1, 1, 3, 4)}},
		{"concurrent writes, two orders", false, []Op{w(1, 1, 1, 10), w(2, 2, 1, 10), r(3, 1, 11, 12), r(3, 2, 13, 14)}},
	} {
		if got := Check(c.ops); (len(got) == 0) != c.ok {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestAgainstPorcupine compares the verdicts on small random histories, of which
// many are wrong.
func TestAgainstPorcupine(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var good, bad int
	for range 20000 {
		ops := history(rng)
		want := porcupine.CheckOperations(model, toPorcupine(ops))
		if got := len(Check(ops)) == 0; got != want {
			t.Fatalf("got %v, want %v: %v", got, want, ops)
		}
		if want {
			good++
		} else {
			bad++
		}
	}
	if good < 2000 || bad < 2000 {
		t.Errorf("%d good and %d bad histories prove little", good, bad)
	}
}

func history(rng *rand.Rand) []Op {
	var ops []Op
	clock := map[int]time.Duration{}
	writes := 1 + rng.IntN(4)
	now := func(client int) time.Duration {
		clock[client] += time.Duration(1+rng.IntN(6))*100 + time.Duration(client) // no two at the same time
		return clock[client]
	}
	for i := range writes {
		client := rng.IntN(3)
		o := w(client, Value(i+1), now(client), now(client))
		if rng.IntN(6) == 0 {
			clock[client+10], o.Client = clock[client], client+10
			o.Return = Never
		}
		ops = append(ops, o)
	}
	for range rng.IntN(5) {
		client := 3 + rng.IntN(3)
		ops = append(ops, r(client, Value(rng.IntN(writes+1)), now(client), now(client)))
	}
	return ops
}

var model = porcupine.Model{
	Init: func() any { return Value(0) },
	Step: func(state, input, output any) (bool, any) {
		if o := input.(Op); o.Write {
			return true, o.Value
		}
		return state == output, state
	},
}

func toPorcupine(ops []Op) []porcupine.Operation {
	var out []porcupine.Operation
	for _, o := range ops {
		out = append(out, porcupine.Operation{ClientId: o.Client, Input: o, Output: o.Value, Call: int64(o.Call), Return: int64(o.Return)})
	}
	return out
}

func TestAfterPowerCut(t *testing.T) {
	ops := []Op{w(1, 1, 1, 2), w(1, 2, 3, 4), w(1, 3, 7, 8), w(2, 4, 3, Never)}
	flush := []Flush{{5, 6}}
	for v, ok := range map[Value]bool{0: false, 1: false, 2: true, 3: true, 4: true, 9: false} {
		if bad := AfterPowerCut(ops, flush, map[int]Value{0: v}); (len(bad) == 0) != ok {
			t.Errorf("%d: %v", v, bad)
		}
	}
	if bad := AfterPowerCut(ops, nil, map[int]Value{0: 0}); len(bad) != 0 {
		t.Errorf("nothing was flushed: %v", bad)
	}
}
