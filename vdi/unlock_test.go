package vdi

import (
	"errors"
	"sync"
	"testing"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// An unlocked VDI loses nothing and may be claimed elsewhere.
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
	write(t, vb, 0, fill(4096, 2))
	if err := b.Unlock(t.Context(), "v"); err != nil { // its own
		t.Fatal(err)
	}
	again := open(t, a, "v", "")
	if err := again.Claim(t.Context()); err != nil {
		t.Errorf("claim after the second unlock: %v", err)
	}
	expect(t, again, 0, fill(4096, 2))
	if err := b.Unlock(t.Context(), "nosuch"); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("unlock of nothing: %v", err)
	}
}

// unlocked is a VDI that was claimed and written by va, at manager a, and unlocked
// since; vb has it open at another manager.
func unlocked(t *testing.T) (a *Manager, va, vb *Volume) {
	t.Helper()
	w := newWorld()
	a = w.manager(t, 1)
	b := w.manager(t, 2)
	create(t, a, "v", 4<<20)
	va, vb = open(t, a, "v", ""), open(t, b, "v", "")
	if err := va.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, va, 0, fill(4096, 1))
	if err := b.Unlock(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	return a, va, vb
}

// The host of a guest stands still, and the guest is started elsewhere, under a lock.
// When the host goes on, the first guest wrote beside the second.
func TestClaimThatWasLostIsOver(t *testing.T) {
	a, va, vb := unlocked(t)
	if err := vb.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	stale := func(when string) {
		t.Helper()
		if err := va.WriteAt(t.Context(), fill(4096, 3), 0); !errors.Is(err, errClaimLost) {
			t.Errorf("%s, the first guest's write: %v", when, err)
		}
		if err := va.ReadAt(t.Context(), make([]byte, 4096), 0); !errors.Is(err, errClaimLost) {
			t.Errorf("%s, its read: %v", when, err)
		}
		if va.TryReadAt(make([]byte, 4096), 0) || va.Batch(t.Context(), nil).Add(fill(4096, 3), 0, func(error) {}) {
			t.Errorf("%s, it goes on by a short way", when)
		}
	}
	stale("beside the second guest")
	write(t, vb, 0, fill(4096, 2))
	if err := vb.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	stale("after the second guest")
	again := open(t, a, "v", "")
	if err := again.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, again, 0, fill(4096, 2))
	stale("beside one of its own node")
}

// The second guest came and went while the first one stood still: what that one has in
// its caches is of before all the same. It went on as if nobody had written.
func TestClaimOfAGuestThatCameAndWentIsNotMissed(t *testing.T) {
	a, va, vb := unlocked(t)
	idle := open(t, a, "v", "") // another client of the first guest's node, which does nothing
	if err := vb.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, vb, 0, fill(4096, 2))
	if err := vb.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if va.TryReadAt(make([]byte, 4096), 0) {
		t.Error("the first guest reads by the short way")
	}
	expect(t, idle, 0, fill(4096, 2)) // its node coordinates the VDI again
	if va.TryReadAt(make([]byte, 4096), 0) || va.Batch(t.Context(), nil).Add(fill(4096, 3), 0, func(error) {}) {
		t.Error("the first guest goes on by a short way")
	}
	if err := va.WriteAt(t.Context(), fill(4096, 3), 0); !errors.Is(err, errClaimLost) {
		t.Errorf("its write: %v", err)
	}
	if err := va.ReadAt(t.Context(), make([]byte, 4096), 0); !errors.Is(err, errClaimLost) {
		t.Errorf("its read: %v", err)
	}
	again := open(t, a, "v", "")
	if err := again.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, again, 0, fill(4096, 2))
	write(t, again, 0, fill(4096, 4))
}

// A guest that stood still and has not found out yet that its claim is over does not
// take the VDI from the guest that has it now, when a command has brought it there.
func TestClaimThatIsOverTakesNothingBack(t *testing.T) {
	a, va, vb := unlocked(t)
	if err := vb.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, vb, 0, fill(4096, 2))
	if err := a.Unlock(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	expect(t, open(t, a, "v", ""), 0, fill(4096, 2)) // a coordinates it, for a command
	write(t, vb, 0, fill(4096, 3))
	if err := va.WriteAt(t.Context(), fill(4096, 9), 0); !errors.Is(err, errClaimLost) {
		t.Errorf("the first guest's write: %v", err)
	}
	expect(t, vb, 0, fill(4096, 3))
}

// Two clients of one node, a command at another node in between, and a change of the
// number of copies: nobody else had the VDI, and the claims hold.
func TestClaimsOfOneNodeAreShared(t *testing.T) {
	w := newWorld()
	a, b := w.manager(t, 1), w.manager(t, 2)
	create(t, a, "v", 4<<20)
	one, two := open(t, a, "v", ""), open(t, a, "v", "")
	if err := one.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, one, 0, fill(4096, 1))
	if err := b.Unlock(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	expect(t, open(t, b, "v", ""), 0, fill(4096, 1)) // b coordinates it, for a command
	write(t, one, 0, fill(4096, 2))                  // and gives it back
	if err := two.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Alter(t.Context(), directory.AlterPolicy{Name: "v", Policy: sheepdog.Policy{Copies: 2}}); err != nil {
		t.Fatal(err)
	}
	for i, v := range []*Volume{one, two, one} {
		write(t, v, 0, fill(4096, byte(10+i)))
		expect(t, v, 0, fill(4096, byte(10+i)))
	}
}

// A command at another node takes an unlocked VDI for itself; the guest that had it
// gets it back.
func TestClaimOutlivesACommandAtAnotherNode(t *testing.T) {
	_, va, vb := unlocked(t)
	expect(t, vb, 0, fill(4096, 1)) // b coordinates it now
	write(t, va, 0, fill(4096, 2))
	expect(t, vb, 0, fill(4096, 2))
	if err := vb.Claim(t.Context()); !errors.Is(err, sheepdog.ErrBusy) {
		t.Errorf("claimed beside the guest: %v", err)
	}
}

// A coordinator that is lost while it works for another node answers so that the
// other one looks for the next: its guest's flush does not fail, nor an unlock.
// Found by the simulation's seed 161.
func TestCoordinatorLostForAnotherNode(t *testing.T) {
	for what, ask := range map[string]func(v *Volume, b *Manager) error{
		"flush":  func(v *Volume, _ *Manager) error { return v.Flush(t.Context()) },
		"unlock": func(_ *Volume, b *Manager) error { return b.Unlock(t.Context(), "v") },
		"snapshot": func(_ *Volume, b *Manager) error {
			_, err := b.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"})
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld()
			a, b := w.manager(t, 1), w.manager(t, 2)
			create(t, a, "v", 4<<20)
			va, vb := open(t, a, "v", ""), open(t, b, "v", "")
			if err := va.Claim(t.Context()); err != nil {
				t.Fatal(err)
			}
			write(t, va, 0, fill(4096, 1))
			w.flushing = sync.OnceFunc(func() { a.local(va.family.Load().id).lose(errMoved) })
			if err := ask(vb, b); err != nil {
				t.Errorf("%s by way of a coordinator that moves: %v", what, err)
			}
			expect(t, vb, 0, fill(4096, 1))
		})
	}
}
