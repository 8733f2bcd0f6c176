package gateway

import (
	"context"
	"errors"
	"testing"

	"sheepdog"
)

// starter is a fake replica that begins flushes, as long as it takes them.
type starter struct {
	*fakeReplica
	takes bool
	begun int
}

func (s *starter) StartFlush(ctx context.Context, req *sheepdog.FlushRequest, done func(error)) bool {
	if !s.takes {
		return false
	}
	s.begun++
	go func() { done(s.Flush(ctx, req)) }()
	return true
}

// starters are the cluster with starters on the nodes but the gateway's own.
type starters struct {
	*cluster
	of map[sheepdog.NodeID]*starter
}

func (s starters) Replica(m sheepdog.Member) sheepdog.Replica {
	if r, ok := s.of[m.ID]; ok {
		return r
	}
	return s.cluster.Replica(m)
}

// A flush that is begun at the other replicas is one that each was asked for: every
// one is flushed once, and an error of any is the flush's, and names the node.
func TestFlushByStartIsFlush(t *testing.T) {
	for _, takes := range []bool{false, true} {
		for _, bad := range []sheepdog.NodeID{0, 1, 2, 3} {
			c := newCluster(1, 2, 3)
			c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
			s := starters{c, map[sheepdog.NodeID]*starter{}}
			for _, id := range ids(2, 3) {
				s.of[id] = &starter{fakeReplica: c.nodes[id], takes: takes}
			}
			if bad != 0 {
				c.nodes[bad].fail = func(string) error { return sheepdog.ErrFenced }
			}
			g := c.gateway()
			g.peers = s
			err := g.Flush(t.Context(), sheepdog.Scope{Family: 1, Policy: three, Token: 1}, []sheepdog.Partition{7, 8}, 0)
			if bad == 0 && err != nil || bad != 0 && !errors.Is(err, sheepdog.ErrFenced) {
				t.Errorf("takes %v, node %d fails: %v", takes, bad, err)
			}
			for id, n := range c.nodes {
				if n.flush != 1 {
					t.Errorf("takes %v, node %d fails: node %d was flushed %d times", takes, bad, id, n.flush)
				}
			}
			if takes && s.of[2].begun+s.of[3].begun != 2 {
				t.Error("the flushes were not begun")
			}
		}
	}
}
