package chaos

import (
	"bytes"
	"testing"
	"time"

	"sheepdog/tests/internal/nbdclient"
)

// A guest moves from gateway to gateway, as in live migration: the next one has
// the VDI open while the last one still writes. It sees no error and all that it
// wrote.
func TestLiveMigration(t *testing.T) {
	a := enter(t, 3)
	a.Dog("vdi", "create", "vm", "64M")
	here, err := nbdclient.Dial(t.Context(), a.Socket(a.Sheep[0]), "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { here.Close() }()
	want := make([]byte, 64<<10)
	var longest time.Duration
	moves := rounds(t, 100, 10)
	for i := range moves {
		next := a.Sheep[(i+1)%3]
		stamp := func() {
			for k := range want {
				want[k] = byte(a.rng.Uint32())
			}
		}
		stamp()
		if err := here.Write(want, 1<<20); err != nil {
			t.Fatalf("move %d: write before: %v", i, err)
		}
		there, err := nbdclient.Dial(t.Context(), a.Socket(next), "vm")
		if err != nil {
			t.Fatalf("move %d: open: %v", i, err)
		}
		stamp()
		if err := here.Write(want, 1<<20); err != nil { // both have it open
			t.Fatalf("move %d: write: %v", i, err)
		}
		from := time.Now()
		if err := here.Flush(); err != nil {
			t.Fatalf("move %d: flush: %v", i, err)
		}
		got := make([]byte, len(want))
		if err := there.Read(got, 1<<20); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("move %d: first read there: %v, equal: %v", i, err, bytes.Equal(got, want))
		}
		stamp()
		if err := there.Write(want, 1<<20); err != nil {
			t.Fatalf("move %d: first write there: %v", i, err)
		}
		longest = max(longest, time.Since(from))
		here.Close()
		if err := there.Read(got, 1<<20); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("move %d: read after the old one has gone: %v, equal: %v", i, err, bytes.Equal(got, want))
		}
		here = there
	}
	t.Logf("%d moves; flush, read and write at the new gateway took at most %v", moves, longest.Round(time.Millisecond))
	a.Checked()
}
