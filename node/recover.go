package node

import (
	"context"
	"errors"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/recovery"
)

// startRecovery starts the agent that makes this node's replicas what the view
// asks for.
func (n *Node) startRecovery() error {
	n.recovery = recovery.New(recovery.Config{Self: n.self.ID, Incarnation: n.self.Incarnation, Store: n.engine, Local: n.replica,
		Peers: members{n}, Views: n.cluster, Layers: n.layers(), Committer: committer{n}, Delay: n.cfg.RecoveryDelay, ScrubEvery: n.cfg.ScrubEvery, ScrubMore: n.scrubStrips,
		Hooks: recovery.Hooks{Suspect: n.suspectID, Settle: n.settle, Merged: n.merged, Flapping: n.cluster.Flapping, Load: n.stats.load}, Log: n.log.With("part", "recovery")})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	n.onClose(func() {
		cancel()
		if n.store != nil {
			n.store.Ending() // the deletion of a large disk goes on in the next life
		}
		<-done
	})
	n.spawn(func() {
		defer close(done)
		if err := n.recovery.Run(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("recovery ended", "err", err)
		}
	})
	return nil
}

func (n *Node) layers() layers { return layers{n.dir} }

func (l layers) Dropped(id sheepdog.LayerID) bool { return l.dir.Dropped(id) }

func (l layers) Absorbing() []sheepdog.LayerID {
	var out []sheepdog.LayerID
	for _, layer := range l.dir.Absorbing() {
		out = append(out, layer.ID)
	}
	return out
}

// members finds replicas by node id, as recovery wants them. Those of a node
// that is no member cannot be reached.
type members struct{ n *Node }

func (m members) Replica(id sheepdog.NodeID) sheepdog.Replica {
	if v := m.n.cluster.View(); v != nil {
		if member, ok := v.Member(id); ok {
			return peers{m.n}.Replica(member)
		}
	}
	return m.n.pool.Replica(sheepdog.Member{ID: id}) // no address: every call fails
}

func (n *Node) suspectID(id sheepdog.NodeID, err error) {
	if !errors.Is(err, sheepdog.ErrUnreachable) {
		return
	}
	if v := n.cluster.View(); v != nil {
		if m, ok := v.Member(id); ok {
			n.suspect(m)
		}
	}
}

// settle has some coordinator finish what a dead one left in a family.
func (n *Node) settle(family sheepdog.FamilyID) {
	n.spawn(func() {
		ctx, cancel := context.WithTimeout(n.ctx, settleTimeout)
		defer cancel()
		if err := n.vdis.Settle(ctx, family); err != nil && n.ctx.Err() == nil {
			n.log.Warn("an unfinished write could not be settled; recovery will ask again", "family", family, "err", err)
		}
	})
}

const settleTimeout = 10 * time.Second

// heal has recovery mend blocks that a guest's read found bad.
func (n *Node) heal(obj sheepdog.ObjectID, layer sheepdog.LayerID, blocks []sheepdog.BlockNo) {
	n.log.Error("checksum mismatch; healing from another replica", "object", obj, "layer", layer, "blocks", len(blocks))
	if n.recovery != nil {
		n.recovery.Heal(obj, layer, blocks)
	}
}

// committer commits what recovery has achieved.
type committer struct{ n *Node }

func (c committer) Promote(ctx context.Context, m *recovery.Move) ([]sheepdog.Partition, error) {
	r, err := c.n.cluster.ProposeState(ctx, state.Command{Promote: &state.Promote{Policy: m.Policy, Node: m.Node, Incarnation: m.Incarnation, Items: items(m)}})
	return r.Refused, err
}

func (c committer) Clean(ctx context.Context, m *recovery.Move) ([]sheepdog.Partition, error) {
	r, err := c.n.cluster.ProposeState(ctx, state.Command{Clean: &state.Clean{Policy: m.Policy, Node: m.Node, Incarnation: m.Incarnation, Items: items(m)}})
	return r.Refused, err
}

func items(m *recovery.Move) []state.PartitionSince {
	out := make([]state.PartitionSince, len(m.Items))
	for i, it := range m.Items {
		out[i] = state.PartitionSince{Partition: it.Partition, Since: it.Since}
	}
	return out
}

// progress is how far this node's recovery is.
func (n *Node) progress() progress {
	p := n.recovery.Progress()
	strips := uint64(n.keeper.Pending())
	out := progress{Finished: p.Finished, Total: p.Total + strips, Strips: strips, Moved: p.MovedBytes, Partitions: p.Partitions, TotalPartitions: p.TotalPartitions,
		Waiting: p.Waiting, Elapsed: p.Elapsed.Seconds()}
	if left := p.Left.Seconds(); p.Left >= 0 {
		out.Left = &left
	}
	return out
}

// merged is told that this node holds nothing of absorbed layers any more. Once
// every member has said so, the leader prunes their names from the directory;
// see prune.go.
func (n *Node) merged(_ context.Context, layers []sheepdog.LayerID) error {
	n.merges.done(layers)
	return nil
}
