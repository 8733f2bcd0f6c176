package gateway

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"sheepdog"
)

// quiet is a fake replica on another node that can be hushed: then its answers are not
// noticed until somebody listens.
type quiet struct {
	*fakeReplica
	listened chan struct{}
	hushed   int
	plain    int
	listens  int
}

func (q *quiet) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	q.plain += len(reqs)
	q.fakeReplica.Write(ctx, reqs, done)
}

func (q *quiet) WriteHushed(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	q.hushed += len(reqs)
	listened := q.listened
	q.fakeReplica.Write(ctx, reqs, func(i int, err error) { go func() { <-listened; done(i, err) }() })
}

func (q *quiet) Listen() {
	if q.listens++; q.listens == 1 {
		close(q.listened)
	}
}

type quietPeers struct {
	*cluster
	of map[sheepdog.NodeID]*quiet
}

func (p quietPeers) Replica(m sheepdog.Member) sheepdog.Replica {
	if q, ok := p.of[m.ID]; ok {
		return q
	}
	return p.cluster.Replica(m)
}

// Of several other nodes with the same writes one is hushed, until one of those others
// answers, whatever it answers; so a hushed write ends as any other.
func TestHushedReplicaIsListenedToOnceAnotherAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bad := range []sheepdog.NodeID{0, 1, 2, 3} {
			c := newCluster(1, 2, 3)
			c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
			p := quietPeers{c, map[sheepdog.NodeID]*quiet{}}
			for _, id := range ids(2, 3) {
				p.of[id] = &quiet{fakeReplica: c.nodes[id], listened: make(chan struct{})}
			}
			if bad != 0 {
				c.nodes[bad].fail = func(string) error { return sheepdog.ErrFenced }
			}
			g := c.gateway()
			g.peers = p
			for i, err := range startAll(t.Context(), g, 5) {
				if bad == 0 && err != nil || bad != 0 && !errors.Is(err, sheepdog.ErrFenced) {
					t.Errorf("node %d fails: write %d: %v", bad, i, err)
				}
			}
			if a, b := p.of[2], p.of[3]; a.hushed != 5 || a.plain != 0 || b.hushed != 0 || b.plain != 5 {
				t.Errorf("hushed: %d and %d writes, others: %d and %d", a.hushed, b.hushed, a.plain, b.plain)
			}
		}
	})
}

// The only other node is not hushed: nobody would ever listen.
func TestLoneReplicaIsNotHushed(t *testing.T) {
	c := newCluster(1, 2)
	c.publish(1, sheepdog.Clean, ids(1, 2), ids(1, 2))
	q := &quiet{fakeReplica: c.nodes[2], listened: make(chan struct{})}
	g := c.gateway()
	g.peers = quietPeers{c, map[sheepdog.NodeID]*quiet{2: q}}
	for _, err := range startAll(t.Context(), g, 3) {
		if err != nil {
			t.Error(err)
		}
	}
	if q.hushed != 0 || q.plain != 3 {
		t.Errorf("%d writes were hushed, %d not", q.hushed, q.plain)
	}
}
