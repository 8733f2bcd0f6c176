package coded

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sheepdog"
)

// readsNothing wants a read of the object to end like this.
func (w *ward) readFails(want error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 300*time.Millisecond)
	defer cancel()
	req := &sheepdog.ReadRequest{Policy: w.layer.Policy, Object: w.layer.object(0), Layer: w.layer.ID, Count: 1,
		Buf: make([]byte, sheepdog.BlockSize), States: make([]sheepdog.BlockState, 1)}
	if err := w.client(1).Read(ctx, req); !errors.Is(err, want) {
		w.t.Errorf("a read ends with %v, want %v", err, want)
	}
}

// An object that has lost more strips than there is parity is waited for until it is
// marked as lost. Then its reads fail, its keepers and checks end, and lists name it;
// what comes back is read.
func TestLostObjectsAreNotWaitedFor(t *testing.T) {
	w := newWard(t, 4)
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{5}).Read(data)
	w.encode(data)
	before := make(map[sheepdog.NodeID][]byte)
	for i, id := range []sheepdog.NodeID{1, 2} { // strips 0 and 1
		rows := uint32(1 + 512)
		before[id] = make([]byte, rows*sheepdog.BlockSize)
		if err := w.engines[id].Read(w.layer.object(0), []sheepdog.LayerID{w.layer.strip(i)}, 0, rows, before[id], make([]sheepdog.BlockState, rows)); err != nil {
			t.Fatal(err)
		}
		if err := w.engines[id].DropObject(w.layer.object(0), w.layer.strip(i)); err != nil {
			t.Fatal(err)
		}
	}
	w.readFails(context.DeadlineExceeded)
	w.layer.Lost, w.layer.Left = []sheepdog.Index{0, 9}, 0
	w.readFails(sheepdog.ErrIO)
	w.round(1)
	if n := w.keeper(1).Pending(); n > 1 {
		t.Errorf("%d objects are pending", n)
	}
	var lost []Finding
	if _, err := w.client(1).Check(t.Context(), w.layer.ID, CheckRequest{}, func(f Finding) { lost = append(lost, f) }); err != nil {
		t.Fatal(err)
	}
	if len(lost) != 3 || slices.ContainsFunc(lost, func(f Finding) bool { return !f.Lost || f.Fault != Missing }) {
		t.Errorf("a check finds %+v", lost)
	}
	var indexes []sheepdog.Index
	if err := w.client(1).Indexes(t.Context(), w.layer.ID, func(i sheepdog.Index) { indexes = append(indexes, i) }); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(indexes); !slices.Equal(indexes, []sheepdog.Index{0, 9}) {
		t.Errorf("a list names %v", indexes)
	}
	errs := make([]error, 1)
	w.engines[1].Write([]sheepdog.Op{{Object: w.layer.object(0), Layer: w.layer.strip(0), Count: uint32(len(before[1]) / sheepdog.BlockSize), Data: before[1], Stamp: stripStamp, Force: true}}, errs)
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	w.reads(data)
}

// A list of a layer that has lost objects still waits for all the others.
func TestListWaitsForWhatIsLeft(t *testing.T) {
	w := newWard(t, 4)
	w.encode(make([]byte, 4<<20))
	w.layer.Objects, w.layer.Lost, w.layer.Left = 3, []sheepdog.Index{5}, 2
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.client(1).Indexes(ctx, w.layer.ID, func(sheepdog.Index) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a list without one of two objects ends with %v", err)
	}
}
