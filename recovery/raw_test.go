package recovery

import (
	"errors"
	"sync/atomic"
	"testing"

	"sheepdog"
)

// raw is a cluster with a run of blocks that node 3 lacks.
func raw(t *testing.T) *cluster {
	c := newCluster(t, twoPlusOne(), nil)
	for _, id := range nodes(1, 2) {
		for at := range sheepdog.BlockNo(20) {
			c.put(id, object(0), top, at, 2, 1)
		}
	}
	return c
}

// Bytes that are spoiled in the source's memory, after its disk, or on their way are
// asked for again and not kept.
func TestBytesSpoiledOnTheWayAreAskedForAgain(t *testing.T) {
	c := raw(t)
	var spoiled, again atomic.Int32
	c.onFetched = func(req *sheepdog.FetchRequest, reply *sheepdog.FetchReply) {
		switch {
		case req.WithData && reply.Raw:
			reply.Data[7*sheepdog.BlockSize+100] ^= 1 << 3
			reply.Data[len(reply.Data)-1] ^= 1
			spoiled.Add(2)
		case req.WithData && req.Count == 1:
			again.Add(1)
		}
	}
	c.run(c.complete, 3)
	c.sameAs(1, 3)
	if spoiled.Load() != 2 || again.Load() != 2 {
		t.Errorf("%d blocks were spoiled and %d asked for again, want 2 and 2", spoiled.Load(), again.Load())
	}
}

// Bytes that are spoiled in the target's memory after they were verified get no
// checksum that says they are right.
func TestBytesSpoiledAfterTheyWereVerifiedAreBad(t *testing.T) {
	c := raw(t)
	var once atomic.Bool
	c.nodes[3].engine.OnWrite = func(ops []sheepdog.Op) {
		for _, op := range ops {
			if op.Data != nil && once.CompareAndSwap(false, true) {
				op.Data[4*sheepdog.BlockSize] ^= 1
			}
		}
	}
	c.run(c.complete, 3)
	err := c.nodes[3].engine.Read(object(0), []sheepdog.LayerID{top}, 0, 20, make([]byte, 20*sheepdog.BlockSize), make([]sheepdog.BlockState, 20))
	var bad *sheepdog.BadBlocksError
	if !errors.As(err, &bad) || len(bad.Blocks) != 1 || bad.Blocks[0] != 4 {
		t.Errorf("read of what was spoiled: %v, want block 4 to be bad", err)
	}
}
