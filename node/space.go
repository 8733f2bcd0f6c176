package node

import (
	"fmt"
	"time"

	"sheepdog"
	"sheepdog/cluster"
)

// Thresholds of a node's space, in percent of what its disks can hold without
// the reserve.
const (
	defaultNearFull = 85
	defaultFull     = 95
)

// spaceEvery is how often a node looks at its space, to tell the others at once
// when its class changes.
const spaceEvery = time.Second

// hints is what gossip tells of this node.
func (n *Node) hints() cluster.Hints {
	h := cluster.Hints{Version: n.cfg.Version}
	if u, err := n.engine.Usage(); err == nil {
		h.Capacity, h.Used = u.Used+u.Free, u.Used
		h.Space = n.spaceClass(u)
	}
	select {
	case <-n.wired: // gossip asks before
		h.BadDisks = n.failedDisks()
		h.Waiting = uint32(n.gateway.Stalled().Writes)
	default:
	}
	return h
}

func (n *Node) spaceClass(u sheepdog.Usage) cluster.Space {
	switch capacity := u.Used + u.Free; {
	case n.self.VNodes == 0:
		return cluster.SpaceEnough
	case overRatio(u.Used, capacity, n.cfg.Full):
		return cluster.SpaceFull
	case overRatio(u.Used, capacity, n.cfg.NearFull):
		return cluster.SpaceNearFull
	}
	return cluster.SpaceEnough
}

// overRatio compares bytes with a ratio in percent; of an unknown capacity
// nothing is said.
func overRatio(used, capacity uint64, percent int) bool {
	return capacity > 0 && used/uint64(percent) >= capacity/100
}

// watchSpace tells the others and the log when this node fills up, and when that
// is over.
func (n *Node) watchSpace() {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	var told cluster.Hints
	for {
		select {
		case <-tick.C:
		case <-n.ctx.Done():
			return
		}
		now := n.hints()
		if now.Space == cluster.SpaceFull && n.shelf != nil {
			n.shelf.Clear()
		}
		if now.Space == told.Space && (now.Waiting > 0) == (told.Waiting > 0) && now.BadDisks == told.BadDisks {
			continue
		}
		if now.Space != told.Space {
			n.logSpace(now)
		}
		told = now
		n.cluster.RefreshHints()
	}
}

func (n *Node) logSpace(h cluster.Hints) {
	switch h.Space {
	case cluster.SpaceFull:
		n.log.Error("this node is full; new VDIs, clones and snapshots are refused", "used", h.Used, "capacity", h.Capacity, "percent", n.cfg.Full)
	case cluster.SpaceNearFull:
		n.log.Warn("this node is nearly full", "used", h.Used, "capacity", h.Capacity, "percent", n.cfg.NearFull)
	default:
		n.log.Info("this node has space", "used", h.Used, "capacity", h.Capacity)
	}
}

// storing are the live nodes with storage: this one as it is now, the others as
// gossip knows them.
func (n *Node) storing() []cluster.GossipMember {
	var out []cluster.GossipMember
	for _, m := range n.cluster.Alive() {
		if m.ID == n.self.ID {
			m.Hints = n.hints()
		}
		if m.VNodes > 0 || m.Hints.Waiting > 0 || m.Hints.BadDisks > 0 {
			out = append(out, m)
		}
	}
	return out
}

// room refuses what would grow the cluster when one of its nodes is full, or
// when writes wait for space already.
func (n *Node) room() error {
	for _, m := range n.storing() {
		switch {
		case m.Hints.Space == cluster.SpaceFull:
			return fmt.Errorf("%s: %w", fullText(&m), sheepdog.ErrNoSpace)
		case m.Hints.Waiting > 0:
			return fmt.Errorf("%s: %w", waitingText(&m), sheepdog.ErrNoSpace)
		}
	}
	return nil
}

// spaceWarnings are for operators.
func (n *Node) spaceWarnings() []string {
	const todo = "; delete VDIs or snapshots, or add nodes or disks"
	var out []string
	for _, m := range n.storing() {
		switch m.Hints.Space {
		case cluster.SpaceFull:
			out = append(out, fullText(&m)+"; new VDIs, clones and snapshots are refused, and writes wait when no space is left"+todo)
		case cluster.SpaceNearFull:
			out = append(out, fmt.Sprintf("node %s is nearly full: it has used %d of %d bytes", m.Addr, m.Hints.Used, m.Hints.Capacity)+todo)
		}
		if m.Hints.Waiting > 0 {
			out = append(out, waitingText(&m)+todo)
		}
		if m.Hints.BadDisks > 0 {
			out = append(out, fmt.Sprintf("node %s has %d failed or missing disks; dog node md info -A shows them, and dog node md unplug takes them out", m.Addr, m.Hints.BadDisks))
		}
	}
	return out
}

func fullText(m *cluster.GossipMember) string {
	return fmt.Sprintf("node %s is full: it has used %d of %d bytes", m.Addr, m.Hints.Used, m.Hints.Capacity)
}

func waitingText(m *cluster.GossipMember) string {
	return fmt.Sprintf("writes of guests at node %s wait for space", m.Addr)
}
