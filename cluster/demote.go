package cluster

import (
	"context"
	"fmt"

	"sheepdog"
	"sheepdog/cluster/state"
)

// Doubt has this node not confirm that it lives until the next Demote: it has lost
// a part of what it held, and must not be what lets other replicas go.
func (c *Cluster) Doubt() { c.lossy.Store(true) }

// Demote has this node stop acting wherever another acting replica lives: it
// has lost a part of what it held and is to be filled again. It returns when
// this node has applied that. Where it is the last one that acts it goes on.
func (c *Cluster) Demote(ctx context.Context) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	err = c.retry(ctx, func() error {
		_, err := c.askLeader(ctx, methodDemote, message{Ref: c.selfRef()})
		return err
	})
	if err != nil {
		return fmt.Errorf("demote this node: %w", err)
	}
	c.lossy.Store(false)
	return c.Barrier(ctx)
}

// handleDemote is the leader's side. Members that have just answered are named,
// so that no partition loses its last good replica. (docs/protocol.md rule 3)
func (c *Cluster) handleDemote(_ context.Context, m message) (any, error) {
	view := c.pub.view()
	if c.office.Load() == nil {
		return nil, errNotLeader
	}
	if view == nil {
		return nil, sheepdog.ErrNotFormatted
	}
	cmd := state.Change{Demote: []state.MemberRef{m.Ref}, Time: c.opts.Now().UTC(), Reason: fmt.Sprintf("%v lost a disk", m.Ref.ID)}
	for ref, ok := range c.confirmAll(view, work{}) {
		if ok && ref != m.Ref {
			cmd.Confirmed = append(cmd.Confirmed, ref)
		}
	}
	_, err := c.commitChange(cmd)
	return reply{}, err
}
