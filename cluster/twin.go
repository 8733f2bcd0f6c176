package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
)

// Two processes have one id when a node's directory was copied or, more often, the
// image of a machine on which sheep had run before. Each would come back in the
// other's place for ever, and as voters the two would vote twice. So the one that
// the view lists stays while it lives; the other takes no part until an operator
// has given it an empty directory.

// Twins are processes that gossip has had alive for a while under one id.
type Twins struct {
	ID    sheepdog.NodeID
	Addrs []string // two or more, ascending
}

func (t Twins) String() string {
	return fmt.Sprintf("sheep at %v have one node id, %v. %s", t.Addrs, t.ID, twinRemedy)
}

// twinRemedy is what an operator has to know.
const twinRemedy = "A node's directory was copied, or the image of a machine was cloned on which sheep had run. " +
	"Of such sheep only one is of use: stop the others, remove all of their META and of what their disks hold, and start them again as new nodes"

// twinAfter is how long two lives of a node are alive in gossip until they count
// as two processes. A node that has moved is in it twice for a moment: gossip takes
// its time to find that the former life is over.
const twinAfter = 10 * time.Second

// Twins lists nodes of which more than one process seems to run.
func (c *Cluster) Twins() (out []Twins) {
	byID := make(map[sheepdog.NodeID][]string)
	for _, m := range c.gossip.settled(twinAfter) {
		if !slices.Contains(byID[m.ID], m.Addr) {
			byID[m.ID] = append(byID[m.ID], m.Addr)
		}
	}
	for id, addrs := range byID {
		if len(addrs) > 1 {
			slices.Sort(addrs)
			out = append(out, Twins{id, addrs})
		}
	}
	slices.SortFunc(out, func(a, b Twins) int { return slices.Compare(a.Addrs, b.Addrs) })
	return out
}

// settled lists the lives that gossip has had alive for so long.
func (g *gossip) settled(long time.Duration) (out []GossipMember) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.known {
		if e.State == GossipAlive && g.clock()-e.since >= long {
			out = append(out, e.GossipMember)
		}
	}
	return out
}

// otherLife is the address of the process that the view lists for a node, if that
// is another one than asks to be listed and lives; else "".
func (c *Cluster) otherLife(ctx context.Context, view *sheepdog.View, m sheepdog.Member) string {
	if m.ID == c.opts.Self.ID && m.Incarnation != c.opts.Self.Incarnation {
		return c.opts.Self.Addr
	}
	old, ok := view.Member(m.ID)
	if !ok || old.Incarnation == m.Incarnation || old.Addr == m.Addr {
		return ""
	}
	ref := state.MemberRef{ID: old.ID, Incarnation: old.Incarnation}
	ctx, cancel := context.WithTimeout(ctx, c.timing(0).Confirm)
	defer cancel()
	if _, err := c.call(ctx, old.Addr, methodConfirm, message{Ref: ref}); err != nil {
		return ""
	}
	return old.Addr
}

// yield takes no part any more, because another process has this node's id.
func (c *Cluster) yield(addr string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.twin.Store(&addr)
	c.lease.drop()
	c.opts.Logger.Error("this node takes no part", "err", c.twinError(addr))
	return c.stopConsensus()
}

func (c *Cluster) twinError(addr string) error {
	return fmt.Errorf("%w: the sheep at %s has the same node id, %v. %s", sheepdog.ErrConflict, addr, c.opts.Self.ID, twinRemedy)
}
