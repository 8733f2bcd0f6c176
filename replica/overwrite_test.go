package replica

import (
	"sync"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// newTarget is a bench in which node 1 is a target that does not act, and holds
// blocks 4 and 5 with a stamp newer than everything that will come.
func newTarget(t *testing.T) *bench {
	b := newBench(t)
	b.mustWrite(repair(sheepdog.Stamp{Token: 9, Seq: 9}))
	b.views.Publish(replicatest.NewView(11, nodes(1, 2, 3), nodes(2, 3), nodes(1, 2, 3)))
	return b
}

func at(revision sheepdog.Revision, r *sheepdog.WriteRequest) *sheepdog.WriteRequest {
	r.Revision = revision
	return r
}

func (b *bench) wantStamp(block sheepdog.BlockNo, token sheepdog.Token, seq uint64) {
	b.t.Helper()
	if got, want := b.record(block).Stamp, (sheepdog.Stamp{Token: token, Seq: seq}); got != want {
		b.t.Errorf("block %d has stamp %v, want %v", block, got, want)
	}
}

func TestTargetOverwritesWhatItHad(t *testing.T) {
	t.Run("guest write", func(t *testing.T) {
		b := newTarget(t)
		b.mustWrite(at(11, request(1)))
		b.wantStamp(4, 3, 1)
	})
	t.Run("backfill", func(t *testing.T) {
		b := newTarget(t)
		b.mustWrite(at(11, repair(sheepdog.Stamp{Token: 1, Seq: 1})))
		b.wantStamp(4, 1, 1)
	})
	t.Run("later writes go by stamp", func(t *testing.T) {
		b := newTarget(t)
		b.mustWrite(at(11, request(5)), at(11, request(4)))
		b.mustWrite(at(11, repair(sheepdog.Stamp{Token: 1, Seq: 1})))
		b.wantStamp(4, 3, 5)
	})
	t.Run("only untouched blocks of a run", func(t *testing.T) {
		b := newTarget(t)
		b.mustWrite(at(11, request(5)))
		wide := at(11, repair(sheepdog.Stamp{Token: 1, Seq: 1}))
		wide.Start, wide.Count, wide.Data = 3, 4, fill(wide.Stamp, 4)
		b.mustWrite(wide)
		for block, seq := range map[sheepdog.BlockNo]uint64{4: 5, 5: 5} {
			b.wantStamp(block, 3, seq)
		}
		b.wantStamp(3, 1, 1)
		b.wantStamp(6, 1, 1)
	})
	t.Run("anew in the next interval", func(t *testing.T) {
		b := newTarget(t)
		b.mustWrite(at(11, request(5)))
		revision := b.step(sheepdog.Placement{Acting: nodes(3), Target: nodes(1, 3)})
		b.mustWrite(at(revision, request(4)))
		b.wantStamp(4, 3, 4)
	})
	t.Run("not after promotion", func(t *testing.T) {
		b := newTarget(t)
		b.mustWrite(at(11, request(5)))
		revision := b.step(sheepdog.Placement{Acting: nodes(1, 2, 3), Target: nodes(1, 2, 3)})
		b.mustWrite(at(revision, request(4)))
		b.wantStamp(4, 3, 5)
	})
	t.Run("not where it acts", func(t *testing.T) {
		b := newBench(t)
		b.mustWrite(repair(sheepdog.Stamp{Token: 9, Seq: 9}))
		b.mustWrite(request(1))
		b.wantStamp(4, 9, 9)
	})
	t.Run("not before a failed write is repeated", func(t *testing.T) {
		b := newTarget(t)
		b.engine.Fail(sheepdog.ErrIO)
		for _, err := range b.write(at(11, request(1)), at(11, request(2))) {
			wantError(t, err, sheepdog.ErrIO)
		}
		b.engine.Fail(nil)
		b.mustWrite(at(11, request(1)))
		b.wantStamp(4, 3, 1)
	})
}

// failing fails the first op of every batch.
type failing struct{ sheepdog.Engine }

func (e failing) Write(ops []sheepdog.Op, errs []error) {
	e.Engine.Write(ops[1:], errs[1:])
	errs[0] = sheepdog.ErrIO
}

// TestFailedFirstWrite: the op after it in the batch was prepared as if it had
// replaced the block, so it may not count as accepted.
func TestFailedFirstWrite(t *testing.T) {
	b := newTarget(t)
	b.server.cfg.Engine = failing{b.engine}
	for i, err := range b.write(at(11, request(1)), at(11, request(2))) {
		if err == nil {
			t.Errorf("request %d was accepted", i)
		}
	}
	b.server.cfg.Engine = b.engine
	b.mustWrite(at(11, request(2)))
	b.wantStamp(4, 3, 2)
}

// TestFirstWritersRace: of two writes of an untouched block that come at once
// the newer must stay, whichever reaches the engine first.
func TestFirstWritersRace(t *testing.T) {
	for range 200 {
		b := newTarget(t)
		var wg sync.WaitGroup
		for seq := uint64(1); seq <= 4; seq++ {
			wg.Go(func() { b.mustWrite(at(11, request(seq))) })
		}
		wg.Wait()
		b.wantStamp(4, 3, 4)
		b.wantStamp(5, 3, 4)
	}
}

func (b *bench) target(start sheepdog.BlockNo, count uint32) *sheepdog.FetchRequest {
	return &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: b.views.View().Revision}, Policy: replicatest.Policy, Object: object, Layer: top, Start: start, Count: count}
}

func TestTouchedAndDistrust(t *testing.T) {
	b := newTarget(t)
	b.mustWrite(at(11, request(5)))
	want := func(text string) {
		t.Helper()
		touched, err := b.server.Touched(b.target(3, 4))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, in := range touched {
			got += map[bool]string{true: "x", false: "."}[in]
		}
		if got != text {
			t.Errorf("touched %s, want %s", got, text)
		}
	}
	want(".xx.")
	if err := b.server.Distrust(b.target(4, 1), sheepdog.Stamp{Token: 3, Seq: 4}); err != nil {
		t.Fatal(err)
	}
	want(".xx.") // it holds a newer stamp than that
	if err := b.server.Distrust(b.target(4, 1), sheepdog.Stamp{Token: 3, Seq: 5}); err != nil {
		t.Fatal(err)
	}
	want("..x.")
	b.mustWrite(at(11, repair(sheepdog.Stamp{Token: 1, Seq: 1})))
	b.wantStamp(4, 1, 1)
	b.wantStamp(5, 3, 5)
}

func TestDiscardKeepsWhatTheIntervalWrote(t *testing.T) {
	b := newTarget(t)
	old := at(10, repair(sheepdog.Stamp{Token: 9, Seq: 9}))
	b.layers.Add(2, fam, top)
	b.layers.Absorb(top, 2) // blocks below count too
	old.Layer = 2
	written := at(11, request(1))
	written.Layer, written.Start, written.Count, written.Data = 2, 300, 600, fill(written.Stamp, 600)
	zero := at(11, request(2))
	zero.Layer, zero.Start, zero.Data = 2, 5, nil
	b.mustWrite(written, zero)
	r := b.target(0, 1)
	r.Layer = 2
	if err := b.server.Discard(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	recs := make([]sheepdog.Record, 1024)
	if err := b.engine.Records(object, []sheepdog.LayerID{2, top}, 0, 1024, recs); err != nil {
		t.Fatal(err)
	}
	for i, rec := range recs {
		want := sheepdog.Stamp{}
		switch {
		case i >= 300 && i < 900:
			want = written.Stamp
		case i == 5 || i == 6:
			want = zero.Stamp
		}
		if rec.Stamp != want {
			t.Fatalf("block %d has %+v, want stamp %v", i, rec, want)
		}
	}
	held, _ := b.engine.Layers()
	if len(held) != 1 {
		t.Errorf("layers left behind: %v", held)
	}
}

func TestDiscardIsRefused(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	wantError(t, b.server.Discard(t.Context(), b.target(0, 1)), sheepdog.ErrConflict)
	stale := b.target(0, 1)
	b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(1, 2)})
	wantError(t, b.server.Discard(t.Context(), stale), sheepdog.ErrStale)
	b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(2, 3)})
	wantError(t, b.server.Discard(t.Context(), b.target(0, 1)), sheepdog.ErrNotActing)
	b.wantStamp(4, 3, 1)
}

func TestEvict(t *testing.T) {
	tests := []struct {
		name string
		pl   sheepdog.Placement
		gone bool
	}{
		{"acting", sheepdog.Placement{Acting: nodes(1), Target: nodes(1)}, false},
		{"target", sheepdog.Placement{Acting: nodes(2), Target: nodes(1, 2)}, false},
		{"foreign but not complete", sheepdog.Placement{Acting: nodes(2), Target: nodes(2, 3)}, false},
		{"foreign but unclean", sheepdog.Placement{Acting: nodes(2), Target: nodes(2), State: sheepdog.Unclean}, false},
		{"foreign", sheepdog.Placement{Acting: nodes(2), Target: nodes(2)}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.mustWrite(request(1))
			b.step(tt.pl)
			if err := b.server.Evict(replicatest.Policy, object, top); err != nil {
				t.Fatal(err)
			}
			if gone := b.record(4).State == sheepdog.Absent; gone != tt.gone {
				t.Errorf("gone %v, want %v", gone, tt.gone)
			}
		})
	}
}

func TestDropScratch(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	b.engine.Write([]sheepdog.Op{{Object: object, Layer: scratchLayer + 3, Count: 1, Stamp: sheepdog.Stamp{Token: 1}}}, make([]error, 1))
	if err := b.server.DropScratch(); err != nil {
		t.Fatal(err)
	}
	held, _ := b.engine.Layers()
	if _, ok := held[top]; !ok || len(held) != 1 {
		t.Errorf("layers %v, want only %d", held, top)
	}
}
