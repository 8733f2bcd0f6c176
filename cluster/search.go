package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// Searches for the leader. Raft tells its members who leads; a node that is new,
// or that Raft has left out, asks others. Without a leader everybody asks, as
// often as somebody on the node wants one, and in a large cluster nobody was left
// with time for an election. So all who want the leader on a node share one
// search, which asks a few members, and the node rests before the next: longer
// after each search in vain.
type searches struct {
	mu    sync.Mutex
	open  map[sheepdog.ClusterID]*search // under way, or about to be
	rest  time.Duration                  // after the last search
	ended time.Time                      // when that was
}

type search struct {
	done  chan struct{} // closed when the rest is set
	asked int           // members
	addr  string
	err   error
}

const (
	searchWidth   = 5  // members asked at a time
	searchMembers = 10 // members asked by one search
	searchRest    = 50 * time.Millisecond
	maxSearchRest = 500 * time.Millisecond
)

// errLeaderMoved: Raft has learnt of another leader, or of the loss of one.
var errLeaderMoved = errors.New("the leader has moved")

// findLeader is the leader that Raft tells of, or that others tell of.
func (c *Cluster) findLeader(ctx context.Context) (string, error) {
	for {
		var moved <-chan struct{}
		if cons := c.consensus.Load(); cons != nil {
			moved = cons.leaderMoved()
			if addr, _ := cons.leader(); addr != "" {
				return addr, nil
			}
		}
		addr, err := c.searchLeader(ctx, c.clusterID(), moved)
		if !errors.Is(err, errLeaderMoved) {
			return addr, err
		}
	}
}

// searchLeader waits for the result of the search that is under way, or begins
// one. A close of moved ends it with errLeaderMoved.
func (c *Cluster) searchLeader(ctx context.Context, id sheepdog.ClusterID, moved <-chan struct{}) (string, error) {
	s := c.joinSearch(id)
	select {
	case <-s.done:
		return s.addr, s.err
	case <-moved:
		return "", errLeaderMoved
	case <-ctx.Done():
		return "", fmt.Errorf("find the leader: %w: %w", sheepdog.ErrNoQuorum, ctx.Err())
	}
}

func (c *Cluster) joinSearch(id sheepdog.ClusterID) *search {
	c.searches.mu.Lock()
	defer c.searches.mu.Unlock()
	if s := c.searches.open[id]; s != nil {
		return s
	}
	s := &search{done: make(chan struct{})}
	if c.searches.open == nil {
		c.searches.open = make(map[sheepdog.ClusterID]*search)
	}
	c.searches.open[id] = s
	wait := time.Until(c.searches.ended.Add(c.searches.rest))
	c.wg.Go(func() {
		if s.err = pause.For(c.ctx, wait); s.err == nil {
			addrs := c.memberAddrs(id)
			addrs = addrs[:min(len(addrs), searchMembers)]
			s.asked = len(addrs)
			s.addr, s.err = c.askForLeader(c.ctx, id, addrs)
		}
		c.searches.end(id, s)
	})
	return s
}

// end publishes the result of a search.
func (q *searches) end(id sheepdog.ClusterID, s *search) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.open, id)
	q.ended = time.Now()
	if s.err == nil || s.asked == 0 {
		q.rest = searchRest
	} else {
		q.rest = jitter(min(max(2*q.rest, searchRest), maxSearchRest))
	}
	close(s.done)
}

// askForLeader asks members of the cluster, a few at a time.
func (c *Cluster) askForLeader(ctx context.Context, id sheepdog.ClusterID, addrs []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timing.Call)
	defer cancel()
	answers := make(chan string, len(addrs))
	var asked, heard int
	for heard < len(addrs) {
		for ; asked < len(addrs) && asked < heard+searchWidth; asked++ {
			addr := addrs[asked]
			c.wg.Go(func() {
				r, err := c.call(ctx, addr, methodLeader, message{Cluster: id})
				if err != nil {
					r.Addr = ""
				}
				answers <- r.Addr
			})
		}
		if addr := <-answers; addr != "" {
			return addr, nil
		}
		heard++
	}
	return "", fmt.Errorf("find the leader among %d nodes: %w", len(addrs), sheepdog.ErrNoQuorum)
}

// memberAddrs lists addresses of other nodes of the cluster in random order,
// those that gossip has alive first.
func (c *Cluster) memberAddrs(id sheepdog.ClusterID) []string {
	var alive, rest []string
	seen := map[string]bool{c.opts.Self.Addr: true}
	for _, g := range c.gossip.members() {
		if g.State == GossipAlive && g.Cluster == id && !seen[g.Addr] {
			seen[g.Addr] = true
			alive = append(alive, g.Addr)
		}
	}
	if v := c.pub.view(); v != nil && v.Cluster == id {
		for _, m := range v.Members {
			if !seen[m.Addr] {
				seen[m.Addr] = true
				rest = append(rest, m.Addr)
			}
		}
	}
	for _, l := range [][]string{alive, rest} {
		rand.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
	}
	return append(alive, rest...)
}
