package recovery

import (
	"context"
	"sync/atomic"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// Bug: after a restart of all nodes, partitions were compared by set of replicas, one
// set after the other, each with a commit. In a cluster of 46 nodes almost every one
// of 65,536 partitions has a set of its own.
func TestManySetsAreReconciledTogether(t *testing.T) {
	v := replicatest.NewView(10, nodes(1, 2, 3, 4, 5, 6, 7), nodes(1), nodes(1))
	var sets [][]sheepdog.NodeID
	for a := sheepdog.NodeID(2); a <= 7; a++ {
		for b := sheepdog.NodeID(2); b <= 7; b++ {
			if a != b {
				sets = append(sets, nodes(1, a, b))
			}
		}
	}
	for i, set := range sets {
		v.Tables[policy][object(i).Partition()] = &sheepdog.Placement{Acting: set, Target: set, Since: 10, State: sheepdog.Unclean}
	}
	if plan := planOf(v, 1); len(sets) <= mostSets || len(plan.Reconcile) != 1 || len(plan.Reconcile[0].Items) != len(sets) {
		t.Fatalf("%d sets of partitions to compare are in %d groups, want one", len(sets), len(plan.Reconcile))
	}
	c := newCluster(t, v, nil)
	for i, set := range sets {
		for k, id := range set {
			c.put(id, object(i), top, 1, 2, uint64((i+k)%3+1)) // another one is the newest each time
		}
	}
	c.run(c.complete, 1)
	for i, set := range sets {
		for id, n := range c.nodes {
			recs := make([]sheepdog.Record, 1)
			_ = n.engine.Records(object(i), []sheepdog.LayerID{top}, 1, 1, recs)
			want := uint64(0)
			if c.placement(object(i)).IsActing(id) {
				want = 3
			}
			if recs[0].Stamp.Seq != want {
				t.Errorf("object %d of nodes %v: node %d has stamp %v, want sequence number %d", i, set, id, recs[0].Stamp, want)
			}
		}
	}
	if c.commits > 3 {
		t.Errorf("%d commits for %d partitions", c.commits, len(sets))
	}
}

// Bug: after a loss of power of all nodes one object that a node could not read kept not only
// its own partition from serving, but all that were compared after it.
func TestObjectThatCannotBeReadKeepsBackItsPartitionOnly(t *testing.T) {
	v := replicatest.NewView(10, nodes(1, 2), nodes(1, 2), nodes(1, 2))
	for p := range v.Tables[policy] {
		v.Tables[policy][p] = &sheepdog.Placement{Acting: nodes(1, 2), Target: nodes(1, 2), Since: 10, State: sheepdog.Unclean}
	}
	var spoiled *spoiledPeers
	c := newCluster(t, v, func(cfg *Config) {
		if cfg.Self == 1 {
			spoiled = &spoiledPeers{Peers: cfg.Peers, object: object(3)}
			cfg.Peers = spoiled
		}
	})
	for i := range 20 {
		c.put(1, object(i), top, 1, 2, 1)
		c.put(2, object(i), top, 1, 2, 2)
	}
	waits := func() (n int) {
		for _, pl := range c.views.View().Tables[policy] {
			if pl.State != sheepdog.Clean {
				n++
			}
		}
		return n
	}
	c.run(func() bool { return waits() == 1 }, 1)
	if pl := c.placement(object(3)); pl.State != sheepdog.Unclean {
		t.Errorf("the object's partition is %+v, which nobody has compared", pl)
	}
	spoiled.mended.Store(true)
	c.run(func() bool { return waits() == 0 }, 1)
}

// spoiledPeers is nodes of which the second cannot read an object.
type spoiledPeers struct {
	Peers
	object sheepdog.ObjectID
	mended atomic.Bool
}

func (s *spoiledPeers) Replica(id sheepdog.NodeID) sheepdog.Replica {
	if id != 2 {
		return s.Peers.Replica(id)
	}
	return &spoiledReplica{s.Peers.Replica(id), s}
}

type spoiledReplica struct {
	sheepdog.Replica
	peers *spoiledPeers
}

func (r *spoiledReplica) Fetch(ctx context.Context, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	if req.Object == r.peers.object && !r.peers.mended.Load() {
		return nil, sheepdog.ErrIO
	}
	return r.Replica.Fetch(ctx, req)
}
