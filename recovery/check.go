package recovery

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
	"sheepdog/internal/pause"
)

// A difference counts only if it looked the same several times in a row: the
// blocks of a write in flight differ between replicas, but not for long.
const (
	checkLooks  = 8
	checkSame   = 3
	checkWait   = 50 * time.Millisecond
	checkPasses = 8
)

// CheckRequest says what to check.
type CheckRequest struct {
	Policy     sheepdog.Policy
	Partitions []sheepdog.Partition // ascending; empty: all
	// Want narrows the check to some replicas; nil: all.
	Want func(obj sheepdog.ObjectID, layer sheepdog.LayerID) bool
	// DryRun finds but does not heal.
	DryRun bool
}

// Fault is what is wrong with a block on one node.
type Fault uint8

const (
	Missing   Fault = iota + 1 // the node does not have it
	Bad                        // its bytes fail their checksum
	Differing                  // another version than the newest
)

func (f Fault) String() string {
	return [...]string{"", "missing", "bad checksum", "differing"}[f]
}

// Finding is one faulty block on one node.
type Finding struct {
	Node   sheepdog.NodeID
	Object sheepdog.ObjectID
	Layer  sheepdog.LayerID
	Block  sheepdog.BlockNo
	Fault  Fault
	Healed bool
	// Lost says that no acting replica has good bytes of the newest version. Nothing
	// takes their place, for the write that brought them may be on its way still.
	Lost bool
}

// Summary counts what a check met.
type Summary struct {
	Objects    uint64 // replicas of one layer of an object, each counted once
	Blocks     uint64 // blocks that hold something, on any replica
	Missing    uint64
	Bad        uint64
	Differing  uint64
	Healed     uint64
	Lost       uint64
	Unrepaired uint64
	// Skipped counts partitions that could not be checked: they wait for replicas,
	// or kept moving.
	Skipped int
}

// checker compares replicas in one group of partitions.
type checker struct {
	circle
	dryRun bool
	rate   *limiter // of what is read; nil: none
	want   func(sheepdog.ObjectID, sheepdog.LayerID) bool
	*tally
}

// tally is what the checkers of all groups have found.
type tally struct {
	report func(Finding)

	mu      sync.Mutex
	summary Summary
}

// Check reads and verifies all acting replicas of some partitions, compares
// them, and heals what is wrong unless it is a dry run. It may run on any node.
// report is called for every finding, one at a time; it may be nil.
func (a *Agent) Check(ctx context.Context, req CheckRequest, report func(Finding)) (Summary, error) {
	return a.check(ctx, req, nil, report)
}

// checkPaced is Check that reads so many bytes a second at most.
func (a *Agent) checkPaced(ctx context.Context, req CheckRequest, rate uint64) (Summary, error) {
	return a.check(ctx, req, &limiter{rate: rate}, nil)
}

func (a *Agent) check(ctx context.Context, req CheckRequest, rate *limiter, report func(Finding)) (Summary, error) {
	k := &checker{circle: circle{Agent: a, policy: req.Policy}, dryRun: req.DryRun, rate: rate, want: req.Want, tally: &tally{report: report}}
	todo := slices.Clone(req.Partitions)
	if len(todo) == 0 {
		for p := range sheepdog.Partitions {
			todo = append(todo, sheepdog.Partition(p))
		}
	}
	for range checkPasses {
		v := a.cfg.Views.View()
		if v == nil {
			return k.summary, fmt.Errorf("check: %w", sheepdog.ErrNotFormatted)
		}
		var err error
		if todo, err = k.pass(ctx, v, todo); err != nil {
			return k.summary, fmt.Errorf("check: %w", err)
		}
		if len(todo) == 0 {
			break
		}
	}
	k.summary.Skipped += len(todo)
	return k.summary, nil
}

// pass checks what stands in one view and returns the partitions that moved
// meanwhile.
func (k *checker) pass(ctx context.Context, v *sheepdog.View, todo []sheepdog.Partition) (left []sheepdog.Partition, err error) {
	groups, skipped := checkGroups(v, k.policy, todo)
	k.summary.Skipped += skipped
	var mu sync.Mutex
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(groupsAtOnce)
	for _, g := range groups {
		eg.Go(func() error {
			one := *k // with a circle of its own
			one.revision, one.ids = v.Revision, g.Sources
			moved, err := one.group(ctx, &run{group: g, view: v})
			mu.Lock()
			defer mu.Unlock()
			left = append(left, moved...)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(left)
	return left, nil
}

// groupsAtOnce bounds the groups whose lists are read at the same time: of many
// nodes there are thousands, most of them empty. How many objects are read at
// once is bounded for all of them together.
const groupsAtOnce = 8

// group checks the partitions of one group and returns those that moved.
func (k *checker) group(ctx context.Context, r *run) (left []sheepdog.Partition, err error) {
	pagers := make([]*pager, len(k.ids))
	for i, id := range k.ids {
		pagers[i] = &pager{agent: k.Agent, id: id, run: r}
	}
	err = byPartition(ctx, r, pagers, func(item Item, objects []*listed) error {
		stood := valid(k.cfg.Views.View(), k.policy, item)
		if stood {
			if err := k.objects(ctx, objects); err != nil && valid(k.cfg.Views.View(), k.policy, item) {
				return err
			}
			stood = valid(k.cfg.Views.View(), k.policy, item)
		}
		if !stood {
			left = append(left, item.Partition)
		}
		return nil
	})
	return left, err
}

// checkGroups sorts partitions by their live acting replicas; those that do not
// serve are skipped.
func checkGroups(v *sheepdog.View, policy sheepdog.Policy, todo []sheepdog.Partition) (groups []Group, skipped int) {
	found := make(map[string]*Group)
	for _, p := range todo {
		pl, ok := v.Placement(policy, p)
		if !ok || pl.State != sheepdog.Clean {
			skipped++
			continue
		}
		ids := liveActing(v, pl)
		if len(ids) == 0 {
			skipped++
			continue
		}
		add(found, fmt.Sprint(ids), policy, ids, Item{p, pl.Since})
	}
	return appendSorted(nil, found), skipped
}

func (k *checker) objects(ctx context.Context, objects []*listed) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(k.cfg.Parallel)
	for _, l := range objects {
		g.Go(func() error {
			for _, layer := range l.union() {
				if k.want != nil && !k.want(l.object, layer) {
					continue
				}
				if err := k.layer(ctx, l.object, layer); err != nil && !layerGone(err) {
					return fmt.Errorf("object %s layer %d: %w", l.object, layer, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (k *checker) layer(ctx context.Context, obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	if err := k.admit(ctx); err != nil {
		return err
	}
	defer func() { <-k.slots }()
	limit, err := k.blocksOf(obj, layer)
	if err != nil {
		return err
	}
	for start := uint32(0); start < limit; start += verifyBlocks {
		req := place(k.revision, k.policy, obj, layer)
		req.Start, req.Count, req.Verify = sheepdog.BlockNo(start), min(verifyBlocks, limit-start), true
		if err := k.rate.wait(ctx, uint64(req.Count)*sheepdog.BlockSize); err != nil {
			return err
		}
		if err := k.blocks(ctx, req); err != nil {
			return err
		}
	}
	k.count(func(s *Summary) { s.Objects += uint64(len(k.ids)) })
	return nil
}

func (k *checker) count(change func(*Summary)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.summary)
}

// suspect is a block on which the replicas differ, and how often in a row they
// differed in this way.
type suspect struct {
	versions []version
	same     int
}

// blocks looks at a range until every difference is gone or sure.
func (k *checker) blocks(ctx context.Context, req sheepdog.FetchRequest) error {
	suspects := make(map[int]suspect)
	wait := checkWait
	for look := range checkLooks {
		replies, err := k.fetchAll(ctx, &req)
		if err != nil {
			return err
		}
		if look == 0 {
			k.countBlocks(replies)
		}
		sure := k.examine(req, replies, suspects)
		for _, i := range sure {
			if err := k.treat(ctx, req, suspects[i].versions, i); err != nil {
				return err
			}
			delete(suspects, i)
		}
		if len(suspects) == 0 {
			return nil
		}
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
		wait *= 2
	}
	return nil // still changing: it is being written
}

// examine updates the suspects by one look and lists those that are sure.
func (k *checker) examine(req sheepdog.FetchRequest, replies []*sheepdog.FetchReply, suspects map[int]suspect) (sure []int) {
	for i := range int(req.Count) {
		if agree(replies, i) {
			delete(suspects, i)
			continue
		}
		now := versionsOf(replies, req.Start, i)
		if len(judge(now).wrong) == 0 {
			delete(suspects, i)
			continue
		}
		s := suspects[i]
		if slices.Equal(s.versions, now) {
			s.same++
		} else {
			s = suspect{versions: now, same: 1}
		}
		suspects[i] = s
		if s.same == checkSame {
			sure = append(sure, i)
		}
	}
	return sure
}

// agree reports whether the replicas say the same of block number i of a range, and none
// has anything bad in it: then nothing is wrong with the block, and most are so.
func agree(replies []*sheepdog.FetchReply, i int) bool {
	for _, r := range replies {
		if len(r.Bad) > 0 || r.Records[i] != replies[0].Records[i] {
			return false
		}
	}
	return true
}

func (k *checker) countBlocks(replies []*sheepdog.FetchReply) {
	var blocks uint64
	for _, r := range replies {
		for _, rec := range r.Records {
			if rec.State != sheepdog.Absent {
				blocks++
			}
		}
	}
	k.count(func(s *Summary) { s.Blocks += blocks })
}

// treat heals a block for sure faulty, and reports it.
func (k *checker) treat(ctx context.Context, req sheepdog.FetchRequest, versions []version, i int) error {
	j := judge(versions)
	at := req
	at.Start, at.Count, at.Verify = req.Start+sheepdog.BlockNo(i), 1, false
	healed := false
	if !k.dryRun && j.source >= 0 && !j.older {
		var err error
		if healed, err = k.mend(ctx, at, j, versions[j.source].Record); err != nil {
			return err
		}
	}
	for _, w := range j.wrong {
		if j.older && !versions[w].bad && versions[w].Record == versions[j.source].Record {
			continue // nothing is wrong with it
		}
		k.found(Finding{Node: k.ids[w], Object: req.Object, Layer: req.Layer, Block: at.Start, Fault: fault(versions[w]),
			Healed: healed, Lost: j.source < 0 || j.older})
	}
	return nil
}

func fault(v version) Fault {
	switch {
	case v.bad:
		return Bad
	case v.State == sheepdog.Absent:
		return Missing
	}
	return Differing
}

func (k *checker) found(f Finding) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.summary
	switch f.Fault {
	case Bad:
		s.Bad++
	case Missing:
		s.Missing++
	default:
		s.Differing++
	}
	if f.Lost {
		s.Lost++
	}
	if f.Healed {
		s.Healed++
	} else {
		s.Unrepaired++
	}
	if f.Healed || k.report == nil {
		k.cfg.Log.Warn("faulty block", "node", f.Node, "object", f.Object, "layer", f.Layer, "block", f.Block, "fault", f.Fault, "healed", f.Healed)
	}
	if k.report != nil {
		k.report(f)
	}
}
