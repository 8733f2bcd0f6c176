package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster"
	"sheepdog/cluster/state"
	"sheepdog/recovery"
)

// Status describes this node without asking anybody.
func (b backend) Status(context.Context) (*api.Status, error) {
	n := b.n
	s := &api.Status{Version: api.Version, Software: n.cfg.Version, Node: apiNode(n.self), Meta: n.cfg.Meta, State: n.state(),
		Started: n.started, NBD: api.NBDEndpoints{TCP: n.nbdAddr}}
	if !n.cfg.NoNBD {
		s.NBD.Unix = n.cfg.socket()
	}
	if v := n.cluster.View(); v != nil {
		s.Epoch, s.Revision = v.Epoch, uint64(v.Revision)
	}
	s.Leader, s.Voter = n.raftRole()
	s.Scrub = scrubDocument(n.recovery.Scrub())
	s.Defragment = n.defragmentDocument()
	return s, nil
}

func scrubDocument(s recovery.ScrubState) api.Scrub {
	return api.Scrub{EverySeconds: max(s.Every, 0).Seconds(), Percent: 100 * float64(s.Slice) / float64(s.Slices), Completed: s.Completed,
		Objects: s.Objects, FoundBlocks: s.Missing + s.Bad + s.Differing, HealedBlocks: s.Healed, LostBlocks: s.Lost, SkippedChecks: s.Skipped}
}

func apiNode(m sheepdog.Member) api.Node {
	return api.Node{ID: m.ID, Incarnation: m.Incarnation, Addr: m.Addr, Zone: m.Zone, VNodes: m.VNodes}
}

// Cluster describes the cluster as this node knows it.
func (b backend) Cluster(context.Context) (*api.Cluster, error) {
	c := &api.Cluster{Version: api.Version, State: b.n.state()}
	v := b.n.cluster.View()
	if v == nil {
		if err := b.n.cluster.GivenUp(); err != nil {
			c.Warnings = append(c.Warnings, err.Error())
		}
		c.Warnings = append(c.Warnings, b.n.twinWarnings()...)
		return c, nil
	}
	c.ID, c.Epoch, c.Revision, c.Config = v.Cluster, v.Epoch, v.Revision, v.Config
	for _, r := range b.n.cluster.History() {
		rec := api.EpochRecord{Epoch: r.Epoch, Time: r.Time}
		for _, m := range r.Members {
			rec.Members = append(rec.Members, api.EpochMember{Addr: m.Addr, VNodes: m.VNodes})
		}
		slices.SortFunc(rec.Members, func(a, b api.EpochMember) int { return api.CompareAddr(a.Addr, b.Addr) })
		c.History = append(c.History, rec)
	}
	slices.SortFunc(c.History, func(a, b api.EpochRecord) int { return cmp.Compare(b.Epoch, a.Epoch) })
	c.Warnings = b.n.warnings(v)
	return c, nil
}

// Format makes a new cluster of the nodes alive now.
func (b backend) Format(ctx context.Context, req *api.FormatRequest) (*api.Cluster, error) {
	if err := checkPolicy(req.Copies); err != nil {
		return nil, err
	}
	if b.n.cluster.Status() != cluster.StatusUnformatted {
		if err := b.n.ready(ctx); err != nil {
			return nil, err
		}
		if n := len(b.n.dir.List()) + len(b.n.dir.Trash()); n > 0 && !req.Discard {
			return nil, fmt.Errorf("the cluster has %d VDIs and snapshots, with those in the trash, which formatting deletes: %w", n, sheepdog.ErrBusy)
		}
	}
	cfg := sheepdog.Config{Policy: req.Copies, MinCopies: req.MinCopies, BlockSizeShift: req.BlockSizeShift, SyncAlways: req.SyncAlways,
		Strict: req.Strict, Locking: req.Locking, FixedVNodes: req.FixedVNodes, RecycleVIDs: req.RecycleVIDs, SkipFullDisks: req.SkipFullDisks}
	if cfg.BlockSizeShift == 0 {
		cfg.BlockSizeShift = sheepdog.DefaultObjectShift
	}
	if err := b.n.cluster.Format(ctx, cfg); err != nil {
		return nil, err
	}
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	return b.Cluster(ctx)
}

// Shutdown stops all nodes: every one flushes and stops without leaving, so that
// the cluster is whole again once they are started. It stops nobody before it has reached
// everybody, or has waited for those that just start or are about to leave the view. A node
// that just starts itself has no view, and does not know who everybody is.
func (b backend) Shutdown(ctx context.Context) error {
	n := b.n
	reached := func() (all bool, err error) {
		known := n.clusterID().IsZero() || n.cluster.View() != nil
		return known && n.tellAll(ctx, methodProgress) == nil, nil
	}
	if err := n.patiently(ctx, reached); err != nil {
		return err
	}
	err := n.tellAll(ctx, methodShutdown)
	n.stop(errShutdown)
	return err
}

// SetRecovery lets data move after a change of membership, or pauses it.
func (b backend) SetRecovery(ctx context.Context, enabled bool) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	disabled := !enabled
	_, err := b.n.cluster.ProposeState(ctx, state.Command{Configure: &state.Configure{RecoveryDisabled: &disabled}})
	return err
}

// Nodes lists the members of the view, or what gossip knows while there is none
// or no quorum.
func (b backend) Nodes(context.Context) ([]api.Node, error) {
	v := b.n.cluster.View()
	var out []api.Node
	if v != nil && b.n.state() != api.StateWaiting {
		for _, m := range v.Members {
			out = append(out, apiNode(m))
		}
		return out, nil
	}
	for _, m := range b.n.cluster.Alive() {
		out = append(out, apiNode(m.Member))
	}
	return out, nil
}

// capacity is the answer to methodCapacity.
type capacity struct {
	Used uint64 `json:"used"`
	Free uint64 `json:"free"`
}

// Capacities asks every node for its space.
func (b backend) Capacities(ctx context.Context) (*api.Capacities, error) {
	nodes, err := b.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	out := &api.Capacities{Version: api.Version, Nodes: make([]api.NodeCapacity, len(nodes))}
	var eg errgroup.Group
	for i, node := range nodes {
		out.Nodes[i].Node = node
		if node.VNodes == 0 {
			continue
		}
		eg.Go(func() error {
			var c capacity
			m := sheepdog.Member{ID: node.ID, Incarnation: node.Incarnation, Addr: node.Addr}
			if err := b.n.call(ctx, m, methodCapacity, nil, &c); err != nil {
				out.Nodes[i].Error = err.Error()
				return nil
			}
			out.Nodes[i].UsedBytes, out.Nodes[i].FreeBytes = c.Used, c.Free
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	for _, e := range b.n.dir.List() {
		if e.SnapID == 0 {
			out.VirtualBytes += e.Size
		}
	}
	return out, nil
}

// KillNode makes a node leave gracefully.
func (b backend) KillNode(ctx context.Context, ref api.NodeRef) error {
	if ref.Self {
		ref.ID = b.n.self.ID
	}
	if !ref.Force {
		if err := b.n.spare(ctx, ref.ID); err != nil {
			return err
		}
	}
	if ref.ID == b.n.self.ID {
		b.n.stop(errLeave)
		return nil
	}
	if b.n.clusterID().IsZero() {
		return sheepdog.ErrNotFormatted
	}
	lives := b.n.lives()[ref.ID]
	if len(lives) == 0 {
		return fmt.Errorf("node %s: %w", ref.ID, sheepdog.ErrNotFound)
	}
	return b.n.tell(ctx, lives, methodLeave)
}

// progress is the answer to methodProgress: objects, bytes, partitions, seconds.
type progress struct {
	Finished        uint64   `json:"finished"`
	Total           uint64   `json:"total"`
	Moved           uint64   `json:"moved"`
	Partitions      int      `json:"partitions"`
	TotalPartitions int      `json:"totalPartitions"`
	Waiting         int      `json:"waiting"`
	Elapsed         float64  `json:"elapsed"`
	Left            *float64 `json:"left,omitempty"`   // nil: not known
	Strips          uint64   `json:"strips,omitempty"` // of the total: objects with strips that are not in place
}

// Recovery lists the members that the view has as targets that do not act yet,
// whose partitions are being compared, or that lack strips of coded layers. It waits for a quorum, and for members
// that just start or are about to leave the view: until then nobody knows.
func (b backend) Recovery(ctx context.Context) ([]api.NodeRecovery, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	answers, v, err := askMembers[progress](ctx, b.n, methodProgress, nil)
	if err != nil {
		return nil, err
	}
	targets := recovering(v)
	var out []api.NodeRecovery
	for _, m := range v.Members {
		p := answers[m.ID]
		if !slices.Contains(targets, m.ID) && p.Strips == 0 {
			continue
		}
		out = append(out, api.NodeRecovery{Node: apiNode(m), FinishedObjects: p.Finished, TotalObjects: p.Total, MovedBytes: p.Moved,
			PartitionsLeft: p.Partitions, TotalPartitions: p.TotalPartitions, WaitingPartitions: p.Waiting, Seconds: p.Elapsed, SecondsLeft: p.Left})
	}
	return out, nil
}

// recovering lists the nodes that have work to do before the view is complete.
func recovering(v *sheepdog.View) []sheepdog.NodeID {
	seen := make(map[sheepdog.NodeID]bool)
	done := make(map[*sheepdog.Placement]bool) // rows are shared
	for _, t := range v.Tables {
		for _, p := range t {
			if done[p] {
				continue
			}
			done[p] = true
			for _, id := range p.Target {
				if !p.IsActing(id) || p.State != sheepdog.Clean {
					seen[id] = true
				}
			}
		}
	}
	out := make([]sheepdog.NodeID, 0, len(seen))
	for id := range seen {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// Methods of control calls between nodes' APIs.
const (
	methodLayers   = "node.layers"
	methodSpace    = "node.space"
	methodCapacity = "node.capacity"
	methodProgress = "node.progress"
	methodLeave    = "node.leave"
	methodShutdown = "node.shutdown"
	methodMerged   = "node.merged"
)

// control serves the methods above.
func (n *Node) control(ctx context.Context, method string, body []byte) ([]byte, error) {
	switch method {
	case methodLayers:
		return n.handleLayers(ctx, body)
	case methodSpace:
		return n.handleSpace(ctx, body)
	case methodStrips:
		return n.handleStrips(ctx, body)
	case methodCapacity:
		u, err := n.engine.Usage()
		if err != nil {
			return nil, err
		}
		return json.Marshal(capacity{Used: u.Used, Free: u.Free})
	case methodProgress:
		return json.Marshal(n.progress())
	case methodMerged:
		return n.handleMerged()
	case methodLeave:
		n.stop(errLeave)
		return nil, nil
	case methodShutdown:
		n.stop(errShutdown)
		return nil, nil
	}
	if serve := n.inquiries()[method]; serve != nil {
		return serve(body)
	}
	return nil, fmt.Errorf("control method %q: %w; is the other node newer than this one?", method, sheepdog.ErrInvalid)
}
