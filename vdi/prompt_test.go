package vdi

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"sheepdog/vdi/directory"
)

// What TryReadAt reads is what ReadAt reads: data, holes, and above a base.
func TestTryReadAtIsReadAt(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	const size = 4 << 20
	create(t, m, "v", size)
	v := open(t, m, "v", "")
	rnd := rand.New(rand.NewPCG(5, 6))
	scatter := func(v *Volume) {
		for range 100 {
			write(t, v, rnd.Uint64N(size/2)&^511, bytes.Repeat([]byte{byte(rnd.Uint32())}, 512*(1+rnd.IntN(30))))
		}
	}
	compare := func(v *Volume) (taken int) {
		t.Helper()
		for range 400 {
			off, n := rnd.Uint64N(size-128<<10)&^4095, 4096*(1+rnd.IntN(20))
			if rnd.IntN(8) == 0 {
				off += 512
			}
			got, want := bytes.Repeat([]byte{0xee}, n), make([]byte, n)
			if !v.TryReadAt(got, off) {
				continue
			}
			taken++
			if err := v.ReadAt(t.Context(), want, off); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%s: %d bytes at %d differ", v.name, n, off)
			}
		}
		return taken
	}
	scatter(v)
	if n := compare(v); n < 100 {
		t.Errorf("only %d reads of 400 were prompt", n)
	}
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	scatter(v)
	compare(v)
	if _, err := m.Clone(t.Context(), directory.Clone{Source: "v", Snapshot: "s", Name: "c"}); err != nil {
		t.Fatal(err)
	}
	c := open(t, m, "c", "")
	scatter(c)
	compare(c)
	if compare(open(t, m, "v", "s")) != 0 {
		t.Error("a snapshot was read promptly")
	}
}

func TestTryReadAtWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, v := oneVDI(t, 4<<20)
		buf := make([]byte, 4096)
		if v.TryReadAt(buf, 0) {
			t.Error("read without a coordinator")
		}
		write(t, v, 0, fill(4096, 1))
		if !v.TryReadAt(buf, 0) || buf[0] != 1 {
			t.Fatal("a plain read was not prompt")
		}
		n := m.opt.Objects.(*node)
		n.mu.Lock()
		n.lease = false
		n.mu.Unlock()
		if v.TryReadAt(buf, 0) {
			t.Error("read without a lease")
		}
		n.mu.Lock()
		n.lease = true
		n.mu.Unlock()
		w.mu.Lock()
		w.slow = true
		w.mu.Unlock()
		if v.TryReadAt(buf, 0) {
			t.Error("read what is not at hand")
		}
		w.mu.Lock()
		w.slow = false
		hold := make(chan struct{})
		w.hold = hold
		w.mu.Unlock()
		done := make(chan error, 1)
		go func() { done <- v.WriteAt(t.Context(), fill(4096, 2), 0) }()
		synctest.Wait()
		if v.TryReadAt(buf, 0) {
			t.Error("read under a write in flight")
		}
		w.mu.Lock()
		w.hold = nil
		w.mu.Unlock()
		close(hold)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !v.TryReadAt(buf, 0) || buf[0] != 2 {
			t.Error("the range was not let go")
		}
		m.local(v.family.Load().id).lose(errMoved)
		if v.TryReadAt(buf, 0) {
			t.Error("read by a coordinator that was deposed")
		}
	})
}
