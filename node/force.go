package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster"
	"sheepdog/cluster/state"
	"sheepdog/vdi/directory"
)

// Bounds of what forcing waits for.
const (
	forceQuorum  = 3 * time.Second  // a leader, before it is believed that there is none
	forceSettle  = 30 * time.Second // the survivors, and only they, are members
	forcePropose = 10 * time.Second
)

// Control methods of forcing.
const (
	methodAssess   = "node.assess"   // what would be lost, by your log
	methodHoldings = "node.holdings" // of which partitions do you have anything
	methodStrips   = "node.strips"   // of which coded objects do you have whole strips
)

// Force has a cluster that waits for nodes lost for ever go on without them
// (docs/adr/0009): first it gets a quorum back, if that is lost, then partitions
// that have lost all their acting replicas go on with what is left of them, and
// coded objects that have lost too many strips are marked.
func (b backend) Force(ctx context.Context, req *api.ForceRequest) (*api.ForceReport, error) {
	n := b.n
	f, err := n.surveyForce(ctx)
	if err != nil {
		return nil, err
	}
	r, err := f.report(ctx)
	if err != nil || req.DryRun {
		return r, err
	}
	if err := agreed(req.GiveUp, r.Lost); err != nil {
		return nil, err
	}
	if f.survey != nil {
		if err := n.cluster.Refound(ctx, f.survey); err != nil {
			return nil, err
		}
	}
	if err := f.settle(ctx); err != nil {
		return nil, err
	}
	if err := f.force(ctx); err != nil {
		return nil, err
	}
	if err := f.loseStrips(ctx); err != nil {
		return nil, err
	}
	r.Done = true
	n.log.Warn("the cluster was forced to go on", "given up", len(r.Lost), "lost partitions", r.Partitions, "damaged VDIs", len(r.VDIs))
	for _, d := range r.VDIs {
		n.log.Warn("VDI may have lost data", "vdi", d.Name, "snapshot", d.SnapshotID, "bytes", d.Bytes, "ranges", len(d.Ranges)+d.MoreRanges)
	}
	return r, nil
}

// agreed compares what an operator gave up with what is lost now.
func agreed(giveUp []sheepdog.NodeID, lost []api.Node) error {
	is := make([]sheepdog.NodeID, len(lost))
	for i, m := range lost {
		is[i] = m.ID
	}
	slices.Sort(is)
	want := slices.Sorted(slices.Values(giveUp))
	if !slices.Equal(is, want) {
		return fmt.Errorf("%w: the nodes that are not here are %v, those to give up %v; look at a dry run again", sheepdog.ErrConflict, is, want)
	}
	return nil
}

// forcing is one run.
type forcing struct {
	n         *Node
	survey    *cluster.Survey // nil: there is a quorum
	survivors []sheepdog.Member
	held      map[state.MemberRef]state.PartitionList
	whole     stripLists
}

// surveyForce finds out who is left, and refuses where no force is needed.
func (n *Node) surveyForce(ctx context.Context) (*forcing, error) {
	if err := n.cluster.GivenUp(); err != nil {
		return nil, err
	}
	if n.cluster.Status() == cluster.StatusUnformatted {
		return nil, sheepdog.ErrNotFormatted
	}
	f := &forcing{n: n}
	quorum, cancel := context.WithTimeout(ctx, forceQuorum)
	err := n.ready(quorum)
	cancel()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil:
		f.survivors = n.cluster.View().Members
	default:
		if f.survey, err = n.cluster.Survey(ctx); err != nil {
			return nil, err
		}
		if f.survey.Quorum {
			return nil, fmt.Errorf("the nodes that are here elect a leader by themselves; wait for it: %w", sheepdog.ErrBusy)
		}
		for _, s := range f.survey.Survivors {
			f.survivors = append(f.survivors, s.Member)
		}
	}
	if err := f.holdings(ctx); err != nil {
		return nil, err
	}
	if v := n.cluster.View(); f.survey == nil && !waitsForLost(v) && len(newLoss(v, n.dir, f.assessment()).strips) == 0 {
		return nil, fmt.Errorf("the cluster is %s and waits for nobody: %w", n.state(), sheepdog.ErrBusy)
	}
	return f, nil
}

// waitsForLost reports whether a partition has nobody left that acts and has all.
func waitsForLost(v *sheepdog.View) bool {
	for _, t := range v.Tables {
		var last *sheepdog.Placement // rows are shared
		for _, p := range t {
			if p == last {
				continue
			}
			last = p
			if state.Lost(p, v.Member) {
				return true
			}
		}
	}
	return false
}

// holdings asks the survivors for what they have.
func (f *forcing) holdings(ctx context.Context) error {
	lists := make([]state.PartitionList, len(f.survivors))
	eg, gctx := errgroup.WithContext(ctx)
	for i, m := range f.survivors {
		eg.Go(func() error {
			if err := f.n.call(gctx, m, methodHoldings, nil, &lists[i]); err != nil {
				return fmt.Errorf("node %s does not tell what it holds: %w", m.Addr, err)
			}
			return nil
		})
	}
	err := eg.Wait()
	if err != nil {
		return err
	}
	applied := f.n.dir.Applied()
	if f.survey != nil {
		applied = 0 // nobody hears of more for now
	}
	if f.whole, err = f.strips(ctx, applied); err != nil {
		return err
	}
	f.held = make(map[state.MemberRef]state.PartitionList)
	for i, m := range f.survivors {
		f.held[state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}] = lists[i]
	}
	return nil
}

// assessment is the body of methodAssess.
type assessment struct {
	Survivors []sheepdog.NodeID   `json:"survivors"`
	Held      state.PartitionList `json:"held"`
	Strips    stripLists          `json:"strips,omitempty"`
}

func (f *forcing) assessment() assessment {
	a := assessment{Strips: f.whole}
	seen := make(map[sheepdog.Partition]bool)
	for _, m := range f.survivors {
		a.Survivors = append(a.Survivors, m.ID)
		for _, p := range f.held[state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}] {
			if !seen[p] {
				seen[p] = true
				a.Held = append(a.Held, p)
			}
		}
	}
	slices.Sort(a.Held)
	return a
}

// report says what is lost, by the log with which the cluster will go on.
func (f *forcing) report(ctx context.Context) (*api.ForceReport, error) {
	r := new(api.ForceReport)
	a := f.assessment()
	if f.survey == nil {
		r = newLoss(f.n.cluster.View(), f.n.dir, a).report()
	} else {
		best := f.survey.Best
		body, err := json.Marshal(a)
		if err != nil {
			return nil, err
		}
		if err := f.n.call(ctx, best.Member, methodAssess, body, r); err != nil {
			return nil, fmt.Errorf("node %s, which has the newest log: %w", best.Member.Addr, err)
		}
		r.Log = &api.LogEnd{Node: best.Member.Addr, Index: best.Position.Index, Term: best.Position.Term, Time: best.Position.Time}
	}
	for _, m := range f.survivors {
		r.Survivors = append(r.Survivors, apiNode(m))
	}
	for i := range r.Lost {
		f.n.recall(&r.Lost[i])
	}
	return r, nil
}

// recall adds what is remembered of a node that left the view.
func (n *Node) recall(lost *api.Node) {
	for _, e := range n.cluster.History() {
		for _, m := range e.Members {
			if m.ID == lost.ID {
				*lost = apiNode(m)
			}
		}
	}
}

// handleAssess answers from this node's whole log.
func (n *Node) handleAssess(body []byte) ([]byte, error) {
	var a assessment
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", methodAssess, err, sheepdog.ErrInvalid)
	}
	dir := directory.New()
	v, err := n.cluster.Replay(machine{dir})
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, sheepdog.ErrNotFormatted
	}
	return json.Marshal(newLoss(v, dir, a).report())
}

// settle waits until the survivors, and nobody else, are members of the view.
func (f *forcing) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, forceSettle)
	defer cancel()
	for {
		v := f.n.cluster.View()
		if v != nil && f.only(v) {
			return nil
		}
		select {
		case <-f.n.cluster.Changed(v):
		case <-ctx.Done():
			return fmt.Errorf("the survivors did not become the members within %v; look at dog cluster info and try again: %w", forceSettle, sheepdog.ErrNoQuorum)
		}
	}
}

func (f *forcing) only(v *sheepdog.View) bool {
	for _, m := range f.survivors {
		if is, ok := v.Member(m.ID); !ok || is.Incarnation != m.Incarnation {
			return false
		}
	}
	return len(v.Members) == len(f.survivors)
}

// force lets the partitions go on that have lost all their acting replicas.
func (f *forcing) force(ctx context.Context) error {
	n := f.n
	ctx, cancel := context.WithTimeout(ctx, forcePropose)
	defer cancel()
	if err := n.ready(ctx); err != nil {
		return err
	}
	v, a := n.cluster.View(), f.assessment()
	l := newLoss(v, n.dir, a)
	var errs []error
	for policy, lost := range l.lost {
		if len(lost) == 0 {
			continue
		}
		cmd := state.Command{Force: &state.Force{Policy: policy, Holders: l.holders(policy, f.held)}}
		if _, err := n.cluster.ProposeState(ctx, cmd); err != nil {
			errs = append(errs, fmt.Errorf("partitions of policy %s: %w", policy, err))
		}
	}
	return errors.Join(errs...)
}
