package node

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster/state"
)

// stateEpoch is the membership of one epoch, as the cluster remembers it.
type stateEpoch = state.EpochRecord

// SetCopies changes the default redundancy of VDIs created later.
func (b backend) SetCopies(ctx context.Context, req *api.CopiesRequest) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	if err := checkPolicy(req.Copies); err != nil {
		return err
	}
	_, err := b.n.cluster.ProposeState(ctx, state.Command{Configure: &state.Configure{Policy: &req.Copies}})
	return err
}

// Reweight sets every node's weight to its share of the space, in one epoch.
func (b backend) Reweight(ctx context.Context) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	if b.n.cluster.View().Config.FixedVNodes {
		return fmt.Errorf("weights of this cluster are set by hand; use dog node vnodes set: %w", sheepdog.ErrInvalid)
	}
	space, err := b.Capacities(ctx)
	if err != nil {
		return err
	}
	weights, err := weigh(space.Nodes)
	if err != nil {
		return err
	}
	return b.n.reweigh(ctx, weights, "reweight")
}

func (n *Node) reweigh(ctx context.Context, weights []state.Weight, reason string) error {
	_, err := n.cluster.ProposeState(ctx, state.Command{Change: &state.Change{Weights: weights, Time: n.cfg.Now().UTC(), Reason: reason}})
	return err
}

// weigh gives a node of average space the default weight, others in proportion.
func weigh(nodes []api.NodeCapacity) ([]state.Weight, error) {
	var sum, count float64
	for _, c := range nodes {
		if c.VNodes == 0 {
			continue
		}
		if c.Error != "" {
			return nil, fmt.Errorf("node %s does not tell its space: %s: %w", c.Addr, c.Error, sheepdog.ErrUnreachable)
		}
		sum += float64(c.UsedBytes) + float64(c.FreeBytes)
		count++
	}
	if sum == 0 {
		return nil, fmt.Errorf("no node has space: %w", sheepdog.ErrNoSpace)
	}
	var out []state.Weight
	for _, c := range nodes {
		if c.VNodes == 0 {
			continue
		}
		share := (float64(c.UsedBytes) + float64(c.FreeBytes)) / (sum / count)
		out = append(out, state.Weight{ID: c.ID, VNodes: uint16(min(max(math.Round(share*sheepdog.DefaultVNodes), 1), math.MaxUint16))})
	}
	return out, nil
}

// SetVNodes sets this node's weight.
func (b backend) SetVNodes(ctx context.Context, req *api.VNodesRequest) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	v := b.n.cluster.View()
	m, ok := v.Member(b.n.self.ID)
	switch {
	case !v.Config.FixedVNodes:
		return fmt.Errorf("weights of this cluster follow the space of its nodes; format it with -V to set them by hand: %w", sheepdog.ErrInvalid)
	case !ok || m.VNodes == 0:
		return fmt.Errorf("node %s stores nothing and has no weight: %w", b.n.self.Addr, sheepdog.ErrInvalid)
	}
	return b.n.reweigh(ctx, []state.Weight{{ID: m.ID, VNodes: req.VNodes}}, "weight set by hand")
}

// Throttle is the bound of this node's recovery.
func (b backend) Throttle(context.Context) (*api.Throttle, error) {
	n, interval := b.n.recovery.Throttle()
	return &api.Throttle{MaxObjects: n, IntervalMilliseconds: uint64(interval.Milliseconds())}, nil
}

// SetThrottle bounds this node's recovery.
func (b backend) SetThrottle(_ context.Context, t *api.Throttle) error {
	return b.n.recovery.SetThrottle(t.MaxObjects, time.Duration(t.IntervalMilliseconds)*time.Millisecond)
}

// SyslogLevels are the levels of a log as syslog numbers them, the most urgent
// first, as levels of slog.
func SyslogLevels() []slog.Level {
	return []slog.Level{slog.LevelError + 3, slog.LevelError + 2, slog.LevelError + 1, slog.LevelError,
		slog.LevelWarn, slog.LevelInfo + 2, slog.LevelInfo, slog.LevelDebug}
}

var errFixedLog = fmt.Errorf("the log of this node has no level that can be changed: %w", sheepdog.ErrInvalid)

// LogLevel is how much this node logs.
func (b backend) LogLevel(context.Context) (*api.LogLevel, error) {
	if b.n.cfg.LogLevel == nil {
		return nil, errFixedLog
	}
	level := b.n.cfg.LogLevel.Level()
	for i, l := range SyslogLevels() {
		if level >= l {
			return &api.LogLevel{Level: api.LogLevels()[i]}, nil
		}
	}
	return &api.LogLevel{Level: "debug"}, nil
}

// SetLogLevel changes how much this node logs, until it ends.
func (b backend) SetLogLevel(_ context.Context, l *api.LogLevel) error {
	if b.n.cfg.LogLevel == nil {
		return errFixedLog
	}
	for i, name := range api.LogLevels() {
		if name == l.Level {
			b.n.cfg.LogLevel.Set(SyslogLevels()[i])
		}
	}
	return nil
}

// Stats counts what this node has served.
func (b backend) Stats(context.Context) (*api.Stats, error) {
	return &api.Stats{Client: b.n.stats.client.document(), Peer: b.n.stats.peer.document()}, nil
}

// Disks lists the disks of this node, or of all.
func (b backend) Disks(ctx context.Context, all bool) (*api.DiskList, error) {
	nodes := []api.Node{apiNode(b.n.self)}
	if all {
		var err error
		if nodes, err = b.Nodes(ctx); err != nil {
			return nil, err
		}
	}
	out := &api.DiskList{}
	for _, n := range nodes {
		if n.VNodes > 0 {
			out.Nodes = append(out.Nodes, api.NodeDisks{Node: n})
		}
	}
	var wg sync.WaitGroup
	for i := range out.Nodes {
		n := &out.Nodes[i]
		wg.Go(func() {
			if err := b.n.call(ctx, sheepdog.Member{ID: n.ID, Incarnation: n.Incarnation, Addr: n.Addr}, methodDisks, nil, &n.Disks); err != nil {
				n.Error = err.Error()
			}
		})
	}
	wg.Wait()
	return out, nil
}
