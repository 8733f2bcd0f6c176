package vdi

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// A snapshot of a VDI with a write that waits for space hung with it. Now it is
// refused, whether the write waited before it or comes to wait while the
// snapshot waits for it; the write goes on, and so do snapshots after it.
func TestSnapshotDoesNotWaitForWriteWithoutSpace(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprint("before ", before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, m, v := oneVDI(t, 4<<20)
				write(t, v, 0, fill(4096, 1))
				hold := make(chan struct{})
				w.mu.Lock()
				w.hold = hold
				w.mu.Unlock()
				stall := func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.full = fmt.Errorf("disk is full: %w", sheepdog.ErrNoSpace)
				}
				if before {
					stall()
				}
				written, snapped := make(chan error, 1), make(chan error, 1)
				go func() { written <- v.WriteAt(t.Context(), fill(4096, 2), 0) }()
				synctest.Wait()
				go func() {
					_, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "no"})
					snapped <- err
				}()
				synctest.Wait()
				if !before {
					stall()
				}
				if err := <-snapped; !errors.Is(err, sheepdog.ErrNoSpace) {
					t.Fatalf("snapshot: %v", err)
				}
				w.mu.Lock()
				w.full, w.hold = nil, nil
				w.mu.Unlock()
				close(hold)
				if err := <-written; err != nil {
					t.Fatal(err)
				}
				if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "yes"}); err != nil {
					t.Fatal(err)
				}
				expect(t, open(t, m, "v", "yes"), 0, fill(4096, 2))
			})
		})
	}
}
