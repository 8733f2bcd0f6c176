package vdi

import (
	"errors"
	"testing"

	"sheepdog"
)

// An unlocked VDI loses nothing, may be claimed elsewhere, and its writer asks
// for it again.
func TestUnlockHandsOver(t *testing.T) {
	w := newWorld()
	a, b := w.manager(t, 1), w.manager(t, 2)
	create(t, a, "v", 4<<20)
	if err := a.Unlock(t.Context(), "v"); !errors.Is(err, sheepdog.ErrConflict) {
		t.Errorf("unlock of what nobody has: %v", err)
	}
	va, vb := open(t, a, "v", ""), open(t, b, "v", "")
	if err := va.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, va, 0, fill(4096, 1))
	if err := vb.Claim(t.Context()); !errors.Is(err, sheepdog.ErrBusy) {
		t.Errorf("a second claim: %v", err)
	}
	if err := b.Unlock(t.Context(), "v"); err != nil { // asks the other node
		t.Fatal(err)
	}
	if err := vb.Claim(t.Context()); err != nil {
		t.Errorf("claim after the unlock: %v", err)
	}
	expect(t, vb, 0, fill(4096, 1))
	write(t, va, 0, fill(4096, 2)) // goes to the new coordinator
	expect(t, vb, 0, fill(4096, 2))
	if err := b.Unlock(t.Context(), "v"); err != nil { // its own
		t.Fatal(err)
	}
	if err := va.Claim(t.Context()); err != nil {
		t.Errorf("claim after the second unlock: %v", err)
	}
	expect(t, va, 0, fill(4096, 2))
	if err := b.Unlock(t.Context(), "nosuch"); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("unlock of nothing: %v", err)
	}
}
