package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/internal/pause"
)

// membershipLoop is the leader's housekeeping: it puts nodes that register into
// the view, takes those out that left or died, and keeps Raft's voters right.
// On other nodes it sleeps.
func (c *Cluster) membershipLoop() {
	var rescue rescue
	for c.ctx.Err() == nil {
		off, view := c.office.Load(), c.pub.view()
		if off == nil || view == nil {
			c.wait(c.membershipKick, c.opts.Timing.Rejoin)
			continue
		}
		if view.Cluster != c.clusterID() {
			if err := c.commitFoundation(view.Cluster); err != nil {
				c.opts.Logger.Info("the new id of the cluster is not committed yet", "err", err)
				c.wait(nil, jitter(c.opts.Timing.Batch))
			}
			continue
		}
		if w := off.pending.collect(view, c.deadMembers(off, view)); !w.empty() {
			changed, err := c.batch(off)
			if err != nil {
				c.opts.Logger.Info("membership was not changed", "err", err)
				c.wait(nil, jitter(c.opts.Timing.Batch))
			}
			if changed {
				continue // more may have come meanwhile
			}
		}
		if rescue.due(view, c.opts.Clock()) {
			if _, err := c.change(off, view, work{}); err != nil {
				c.opts.Logger.Info("partitions wait for dead nodes", "err", err)
			}
		}
		c.reconcileVoters(view)
		c.wait(c.membershipKick, c.opts.Timing.Reconcile)
	}
}

// rescue says when to look for members that may go on without dead ones.
type rescue struct {
	view    *sheepdog.View
	waiting bool // the view has partitions that wait for dead nodes
	next    time.Duration
}

// rescueEvery is the pause between attempts on the same view.
const rescueEvery = 2 * time.Second

func (r *rescue) due(view *sheepdog.View, now time.Duration) bool {
	if r.view != view {
		*r = rescue{view: view, waiting: waitsForDead(view), next: now}
	}
	if !r.waiting || now < r.next {
		return false
	}
	r.next = now + rescueEvery
	return true
}

// batch waits for company and commits one change. After a start of the whole
// cluster, when the leader itself is not in the view yet, it waits longer, so
// that the nodes that waited for the quorum join in one epoch.
func (c *Cluster) batch(off *office) (changed bool, err error) {
	window := c.opts.Timing.Batch
	if !listed(c.pub.view(), c.selfRef()) {
		window = c.opts.Timing.StartBatch
	}
	if err := pause.For(c.ctx, window); err != nil {
		return false, err
	}
	view := c.pub.view()
	w := off.pending.collect(view, c.deadMembers(off, view))
	if w.empty() {
		return false, nil
	}
	return c.change(off, view, w)
}

// deadMembers are those that gossip has declared dead, or has not seen at all
// for a while since this leader took office.
func (c *Cluster) deadMembers(off *office, view *sheepdog.View) map[state.MemberRef]bool {
	dead := make(map[state.MemberRef]bool)
	now := c.opts.Clock()
	for _, m := range view.Members {
		ref := state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}
		if ref.ID == c.opts.Self.ID {
			if ref != c.selfRef() {
				dead[ref] = true // an earlier life of this process
			}
			continue
		}
		g, known := c.gossip.member(ref)
		switch {
		case known && g.State == GossipDead:
			dead[ref] = true
		case !known && now-off.pending.absentSince(ref, now) >= c.opts.Timing.Absent:
			dead[ref] = true
		}
	}
	return dead
}

// change commits one change of the membership. Members in doubt go unless they
// confirm that they live; those that confirm are named, so that the state
// machine may drop others from partitions that they hold completely.
func (c *Cluster) change(off *office, view *sheepdog.View, w work) (changed bool, err error) {
	joins, failed := c.admitAll(w.joins)
	confirmed := c.confirmPatiently(view, w)
	refuted := make(map[state.MemberRef]bool)
	cmd := state.Change{Join: joins, Time: c.opts.Now().UTC()}
	for _, m := range view.Members {
		ref := state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}
		switch {
		case w.leaves[ref]:
			cmd.Remove = append(cmd.Remove, ref)
		case confirmed[ref]:
			cmd.Confirmed = append(cmd.Confirmed, ref)
			refuted[ref] = true
		case w.doubtful[ref]:
			cmd.Remove = append(cmd.Remove, ref)
		}
	}
	off.pending.forget(refuted, failed)
	if len(cmd.Join)+len(cmd.Remove) == 0 && !w.empty() {
		return false, nil // every suspicion was refuted
	}
	cmd.Reason = reason(cmd)
	return c.commitChange(cmd)
}

func (c *Cluster) commitChange(cmd state.Change) (changed bool, err error) {
	r, err := c.commitState(state.Command{Change: &cmd})
	if err == nil && r.Changed {
		c.opts.Logger.Info("membership changed", "epoch", r.Epoch, "revision", r.Revision, "change", cmd.Reason)
	}
	return r.Changed, err
}

// commitState commits a command of the leader itself.
func (c *Cluster) commitState(cmd state.Command) (r state.Result, err error) {
	body, err := cmd.Encode()
	if err != nil {
		return r, err
	}
	e := entry{Type: entryState, Body: body}
	b, err := e.encode()
	if err != nil {
		return r, err
	}
	cons := c.consensus.Load()
	if cons == nil {
		return r, errNotLeader
	}
	o, err := cons.apply(b)
	if err != nil {
		return r, err
	}
	out, err := o.value()
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("answer of the state machine: %w", err)
	}
	return r, nil
}

// admitAll adds the joining nodes to Raft's configuration, without a vote; who
// cannot be added does not join.
func (c *Cluster) admitAll(joins []sheepdog.Member) (admitted []sheepdog.Member, failed []sheepdog.NodeID) {
	cons := c.consensus.Load()
	for _, m := range joins {
		if cons == nil {
			break
		}
		if err := cons.admit(m.ID, m.Addr); err != nil {
			c.opts.Logger.Warn("cannot let a node follow the log", "node", m.ID, "addr", m.Addr, "err", err)
			failed = append(failed, m.ID)
			continue
		}
		admitted = append(admitted, m)
	}
	return admitted, failed
}

// reason is the change in the words of the log.
func reason(cmd state.Change) string {
	var b strings.Builder
	for _, m := range cmd.Join {
		fmt.Fprintf(&b, "+%v at %s ", m.ID, m.Addr)
	}
	for _, r := range cmd.Remove {
		fmt.Fprintf(&b, "-%v ", r.ID)
	}
	s := strings.TrimSpace(b.String())
	return s[:min(len(s), state.MaxReason)]
}

// waitsForDead reports whether a partition lists an acting replica that is no
// member beside one that is: once that one confirms, it goes on without.
func waitsForDead(view *sheepdog.View) bool {
	members := make(map[sheepdog.NodeID]bool, len(view.Members))
	for _, m := range view.Members {
		members[m.ID] = true
	}
	for _, table := range view.Tables {
		for _, p := range table {
			live := 0
			for _, id := range p.Acting {
				if members[id] {
					live++
				}
			}
			if live > 0 && live < len(p.Acting) {
				return true
			}
		}
	}
	return false
}

// kickMembership wakes the membership loop.
func (c *Cluster) kickMembership() { kick(c.membershipKick) }

func (c *Cluster) kickRegister() { kick(c.registerKick) }

func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// wait returns when ch is ready, d has passed or the cluster is shut down.
func (c *Cluster) wait(ch <-chan struct{}, d time.Duration) { c.waitEither(ch, nil, d) }

func (c *Cluster) waitEither(ch, other <-chan struct{}, d time.Duration) {
	ctx, cancel := context.WithTimeout(c.ctx, max(d, time.Millisecond))
	defer cancel()
	select {
	case <-ch:
	case <-other:
	case <-ctx.Done():
	}
}
