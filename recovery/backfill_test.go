package recovery

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// twoPlusOne is a view in which nodes 1 and 2 act and node 3 is to join them.
func twoPlusOne() *sheepdog.View {
	return replicatest.NewView(10, nodes(1, 2, 3), nodes(1, 2), nodes(1, 2, 3))
}

func TestEmptyPartitionsArePromotedAtOnce(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	var calls atomic.Int32
	c.onCall = func(sheepdog.NodeID, string) { calls.Add(1) }
	c.run(c.complete, 3)
	if n := calls.Load(); n > 32 {
		t.Errorf("%d calls to other nodes, want at most 32", n)
	}
	if c.promoted != sheepdog.Partitions || c.commits > 16 {
		t.Errorf("promoted %d partitions in %d commits, want %d in at most 16", c.promoted, c.commits, sheepdog.Partitions)
	}
}

// TestBackfill meets everything that a returning node may hold.
func TestBackfill(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	for i := range 40 {
		for _, id := range nodes(1, 2) {
			c.put(id, object(i), base, 3, 1, 1)
			c.put(id, object(i), top, 5, 2, uint64(i+1))
			c.put(id, object(i), top, 6, 2, uint64(i+1))
		}
	}
	c.put(3, object(0), base, 3, 1, 1)
	c.put(3, object(0), top, 5, 2, 1)
	c.put(3, object(0), top, 6, 2, 1)  // equal
	c.put(3, object(1), top, 5, 1, 1)  // older
	c.put(3, object(2), top, 5, 9, 9)  // newer, never committed
	c.put(3, object(3), top, 7, 9, 9)  // a block that nobody else has
	c.put(3, object(4), base, 9, 1, 9) // likewise, below
	c.put(3, object(99), top, 1, 1, 1) // an object that nobody else has
	c.layers.Add(3, fam, top)          // a layer that nobody else has
	c.put(3, object(5), 3, 1, 1, 1)    //
	c.layers.Freeze(base)              // repairs go into frozen layers
	c.run(c.complete, 3)
	c.sameAs(1, 3)
	if c.nodes[3].engine.Unflushed() {
		t.Error("promoted with data that are not durable")
	}
	if p := c.nodes[3].agent.Progress(); p.Finished != p.Total || p.Total < 40 {
		t.Errorf("progress %+v, want at least 40 objects, all finished", p)
	}
}

// Bug: an object whose records this node cannot read any more kept it, and all that was to
// be fetched from the same node, from ever becoming complete.
func TestBackfillReplacesWhatCannotBeRead(t *testing.T) {
	spoiled := &spoiledObject{object: object(1)}
	c := newCluster(t, twoPlusOne(), func(cfg *Config) {
		if cfg.Self == 3 {
			spoiled.Local = cfg.Local
			cfg.Local = spoiled
		}
	})
	for i := range 3 {
		for _, id := range nodes(1, 2) {
			c.put(id, object(i), top, 5, 2, uint64(i+1))
		}
		c.put(3, object(i), top, 5, 1, uint64(i+1))
		c.put(3, object(i), top, 6, 1, uint64(i+1))
	}
	c.run(c.complete, 3)
	c.sameAs(1, 3)
	if !spoiled.gone.Load() {
		t.Error("it was not met")
	}
}

// spoiledObject is a replica server whose engine cannot read one object until it is dropped.
type spoiledObject struct {
	Local
	object sheepdog.ObjectID
	gone   atomic.Bool
}

func (s *spoiledObject) Fetch(ctx context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	if r.Object == s.object && !s.gone.Load() {
		return nil, sheepdog.ErrIO
	}
	return s.Local.Fetch(ctx, r)
}

func (s *spoiledObject) Discard(ctx context.Context, r *sheepdog.FetchRequest) error {
	s.gone.Store(s.gone.Load() || r.Object == s.object)
	return s.Local.Discard(ctx, r)
}

// TestBackfillUnderWrites copies while a guest writes the same blocks, and ends
// byte for byte equal.
func TestBackfillUnderWrites(t *testing.T) {
	const objects, blocks = 24, 8
	c := newCluster(t, twoPlusOne(), nil)
	c.seq = 1000
	for i := range objects {
		for b := range sheepdog.BlockNo(blocks) {
			c.put(1, object(i), top, b, 3, uint64(i)+1)
			c.put(2, object(i), top, b, 3, uint64(i)+1)
			c.put(3, object(i), top, b, 9, uint64(i)+1) // to be distrusted
			c.put(3, object(i), top, b+20, 9, 5)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for n := w; ; n += 4 { // each writer has its own blocks: writes of one block do not overlap
				select {
				case <-stop:
					return
				default:
					c.write(object(n*7%objects), sheepdog.BlockNo(w+4*(n/4%3)))
				}
			}
		})
	}
	c.run(c.complete, 3)
	close(stop)
	wg.Wait()
	c.sameAs(1, 2)
	c.sameAs(1, 3)
}

// TestBackfillOfLargeObjects: a VDI may have larger objects than the cluster's
// default, and blocks beyond those of others.
func TestBackfillOfLargeObjects(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	c.layers.Resize(fam, sheepdog.MaxBlockSizeShift)
	for _, at := range []sheepdog.BlockNo{3, 1023, 1024, 5000, 524287} {
		for _, id := range nodes(1, 2) {
			c.put(id, object(1), top, at, 2, uint64(at))
		}
	}
	c.run(c.complete, 3)
	c.sameAs(1, 3)
}
