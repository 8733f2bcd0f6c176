package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// TestWriteIsRefused has a case for every rule that keeps a write out; removing
// the check lets the write in.
func TestWriteIsRefused(t *testing.T) {
	tests := []struct {
		name  string
		setup func(b *bench, r *sheepdog.WriteRequest)
		want  error
	}{
		{"stale interval", func(b *bench, r *sheepdog.WriteRequest) {
			b.step(sheepdog.Placement{Acting: nodes(1, 2), Target: nodes(1, 2)})
		}, sheepdog.ErrStale},
		{"view not known here", func(b *bench, r *sheepdog.WriteRequest) { r.Revision = 11 }, sheepdog.ErrBehind},
		{"neither acting nor target", func(b *bench, r *sheepdog.WriteRequest) {
			r.Revision = b.step(sheepdog.Placement{Acting: nodes(2, 3), Target: nodes(2, 3)})
		}, sheepdog.ErrNotActing},
		{"unclean partition", func(b *bench, r *sheepdog.WriteRequest) {
			r.Revision = b.step(sheepdog.Placement{Acting: nodes(1), Target: nodes(1), State: sheepdog.Unclean})
		}, sheepdog.ErrNotActing},
		{"other incarnation in the view", func(b *bench, r *sheepdog.WriteRequest) {
			b.views.Publish(replicatest.Next(b.views.View(), func(v *sheepdog.View, _ sheepdog.Table) { v.Members[0].Incarnation = 99 }))
			r.Revision = 11
		}, sheepdog.ErrNotActing},
		{"no member", func(b *bench, r *sheepdog.WriteRequest) {
			b.views.Publish(replicatest.Next(b.views.View(), func(v *sheepdog.View, _ sheepdog.Table) { v.Members = v.Members[1:] }))
			r.Revision = 11
		}, sheepdog.ErrNotActing},
		{"token older than committed", func(b *bench, r *sheepdog.WriteRequest) { b.layers.Appoint(fam, 4) }, sheepdog.ErrFenced},
		{"token older than promised by a write", func(b *bench, r *sheepdog.WriteRequest) {
			newer := request(1)
			newer.Token, newer.Stamp.Token, newer.Start = 5, 5, 100
			b.mustWrite(newer)
		}, sheepdog.ErrFenced},
		{"token older than promised by a seal", func(b *bench, r *sheepdog.WriteRequest) {
			if _, err := b.server.Seal(context.Background(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: 10, Token: 4}, Family: fam}); err != nil {
				b.t.Fatal(err)
			}
		}, sheepdog.ErrFenced},
		{"no token", func(b *bench, r *sheepdog.WriteRequest) { r.Token = 0 }, sheepdog.ErrInvalid},
		{"frozen layer", func(b *bench, r *sheepdog.WriteRequest) { b.layers.Freeze(top) }, sheepdog.ErrFrozen},
		{"layer frozen under a newer token", func(b *bench, r *sheepdog.WriteRequest) {
			b.layers.Appoint(fam, 4)
			b.layers.Freeze(top)
		}, sheepdog.ErrFenced},
		{"deleted layer", func(b *bench, r *sheepdog.WriteRequest) { b.layers.Remove(top) }, sheepdog.ErrFrozen},
		{"layer not known yet", func(b *bench, r *sheepdog.WriteRequest) { r.Layer = 2 }, sheepdog.ErrBehind},
		{"family of another policy", func(b *bench, r *sheepdog.WriteRequest) {
			b.views.Publish(replicatest.Next(b.views.View(), func(v *sheepdog.View, table sheepdog.Table) {
				v.Tables[sheepdog.Policy{Copies: 2}] = table
			}))
			r.Policy = sheepdog.Policy{Copies: 2}
		}, sheepdog.ErrBehind},
		{"policy without a table", func(b *bench, r *sheepdog.WriteRequest) { r.Policy.Copies = 9 }, sheepdog.ErrNotActing},
		{"short data", func(b *bench, r *sheepdog.WriteRequest) { r.Data = r.Data[1:] }, sheepdog.ErrInvalid},
		{"no blocks", func(b *bench, r *sheepdog.WriteRequest) { r.Count, r.Data = 0, nil }, sheepdog.ErrInvalid},
		{"beyond the object", func(b *bench, r *sheepdog.WriteRequest) { r.Start = 1023 }, sheepdog.ErrInvalid},
		{"range that overflows", func(b *bench, r *sheepdog.WriteRequest) { r.Start, r.Count, r.Data = 2, 1<<32-1, nil }, sheepdog.ErrInvalid},
		{"no stamp", func(b *bench, r *sheepdog.WriteRequest) { r.Stamp = sheepdog.Stamp{} }, sheepdog.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			r := request(1)
			tt.setup(b, r)
			wantError(t, b.write(r)[0], tt.want)
			if rec := b.record(4); rec.State != sheepdog.Absent {
				t.Errorf("the refused write was applied: %+v", rec)
			}
		})
	}
}

func TestWriteIsAccepted(t *testing.T) {
	tests := []struct {
		name  string
		setup func(b *bench, r *sheepdog.WriteRequest)
	}{
		{"plain", func(b *bench, r *sheepdog.WriteRequest) {}},
		{"older view, same interval", func(b *bench, r *sheepdog.WriteRequest) {
			b.views.Publish(replicatest.Next(b.views.View(), nil))
		}},
		{"at a target", func(b *bench, r *sheepdog.WriteRequest) {
			r.Revision = b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(1, 2)})
		}},
		{"repair of a frozen layer", func(b *bench, r *sheepdog.WriteRequest) {
			b.layers.Freeze(top)
			r.Repair, r.Token = true, 0
		}},
		{"repair with an old token", func(b *bench, r *sheepdog.WriteRequest) {
			b.layers.Appoint(fam, 9)
			r.Repair = true
		}},
		{"repair while unclean", func(b *bench, r *sheepdog.WriteRequest) {
			r.Revision = b.step(sheepdog.Placement{Acting: nodes(1), Target: nodes(1), State: sheepdog.Unclean})
			r.Repair = true
		}},
		{"last blocks of the object", func(b *bench, r *sheepdog.WriteRequest) { r.Start = 1022 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			r := request(1)
			tt.setup(b, r)
			wantError(t, b.write(r)[0], nil)
			if rec := b.record(r.Start); rec.Stamp != r.Stamp {
				t.Errorf("the write was not applied: %+v", rec)
			}
		})
	}
}

// TestWaits shows that requests wait for a view or a layer and then go on, and
// that others of the batch do not wait with them.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.cfg.CatchUp = time.Second
		early, late, unknown := request(1), request(2), request(3)
		late.Revision, late.Start = 11, 8
		unknown.Layer = 2
		done := make(chan int, 3)
		go b.server.Write(context.Background(), []*sheepdog.WriteRequest{early, late, unknown}, func(i int, err error) {
			if err != nil {
				t.Errorf("request %d: %v", i, err)
			}
			done <- i
		})
		if i := <-done; i != 0 {
			t.Fatalf("request %d came first, want 0", i)
		}
		time.Sleep(500 * time.Millisecond)
		b.views.Publish(replicatest.Next(b.views.View(), nil))
		if i := <-done; i != 1 {
			t.Fatalf("request %d came second, want 1", i)
		}
		b.layers.Add(2, fam, top)
		if i := <-done; i != 2 {
			t.Fatalf("request %d came third, want 2", i)
		}
	})
}

func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.server.cfg.CatchUp = 2 * time.Second
		r := request(1)
		r.Revision = 11
		start := time.Now()
		wantError(t, b.write(r)[0], sheepdog.ErrBehind)
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("waited %v, want 2s", took)
		}
		_, err := b.read(11, 3)
		wantError(t, err, sheepdog.ErrBehind)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = b.server.List(ctx, &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: 11}, Policy: replicatest.Policy, Limit: 1, Layer: top})
		wantError(t, err, context.DeadlineExceeded)
	})
}

func TestReadIsRefused(t *testing.T) {
	tests := []struct {
		name  string
		setup func(b *bench) (sheepdog.Revision, sheepdog.Token)
		want  error
	}{
		{"stale interval", func(b *bench) (sheepdog.Revision, sheepdog.Token) {
			b.step(sheepdog.Placement{Acting: nodes(1), Target: nodes(1)})
			return 10, 3
		}, sheepdog.ErrStale},
		{"target", func(b *bench) (sheepdog.Revision, sheepdog.Token) {
			return b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(1, 2)}), 3
		}, sheepdog.ErrNotActing},
		{"unclean", func(b *bench) (sheepdog.Revision, sheepdog.Token) {
			return b.step(sheepdog.Placement{Acting: nodes(1), Target: nodes(1), State: sheepdog.Unclean}), 3
		}, sheepdog.ErrNotActing},
		{"old token", func(b *bench) (sheepdog.Revision, sheepdog.Token) { return 10, 2 }, sheepdog.ErrFenced},
		{"deleted layer", func(b *bench) (sheepdog.Revision, sheepdog.Token) {
			b.layers.Remove(top)
			return 10, 3
		}, sheepdog.ErrNotFound},
		{"layer deleted under a newer token", func(b *bench) (sheepdog.Revision, sheepdog.Token) {
			b.layers.Appoint(fam, 4)
			b.layers.Remove(top)
			return 10, 3
		}, sheepdog.ErrFenced},
		{"rotten block", func(b *bench) (sheepdog.Revision, sheepdog.Token) {
			b.engine.Rot(object, top, 5)
			return 10, 3
		}, sheepdog.ErrChecksum},
		{"interval moved while reading", func(b *bench) (sheepdog.Revision, sheepdog.Token) {
			b.engine.OnRead = func(sheepdog.ObjectID) { b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(2)}) }
			return 10, 3
		}, sheepdog.ErrStale},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.mustWrite(request(1))
			revision, token := tt.setup(b)
			_, err := b.read(revision, token)
			wantError(t, err, tt.want)
		})
	}
}

// TestEarlierLife shows that what was asked of an earlier process of the node is
// not answered by this one.
func TestEarlierLife(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	fence := sheepdog.Fence{Revision: 9, Token: 3}
	wantError(t, b.server.Flush(t.Context(), &sheepdog.FlushRequest{Fence: fence, Family: fam}), sheepdog.ErrStale)
	_, err := b.server.Seal(t.Context(), &sheepdog.SealRequest{Fence: fence, Family: fam})
	wantError(t, err, sheepdog.ErrStale)
}
