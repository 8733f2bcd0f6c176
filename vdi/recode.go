package vdi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Coder encodes objects into coded layers (package coded).
type Coder interface {
	// Encode writes the strips of one object, which it reads from source. It tells
	// who got them; nobody if the object has nothing.
	Encode(ctx context.Context, layer sheepdog.LayerID, index sheepdog.Index,
		source func(ctx context.Context, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error) (map[sheepdog.NodeID]sheepdog.Incarnation, error)
	// Flush makes them durable, or fails if one of the holders has ended.
	Flush(ctx context.Context, layer sheepdog.LayerID, holders map[sheepdog.NodeID]sheepdog.Incarnation) error
}

// RecodeTiming says when layers are encoded.
type RecodeTiming struct {
	Every  time.Duration // between looks for work
	Idle   time.Duration // a working layer is encoded when nobody wrote it for so long
	Retire time.Duration // from when all members know of an encoding until the replicas go; longer than a lease
}

// DefaultRecodeTiming is for real clusters.
func DefaultRecodeTiming() RecodeTiming {
	return RecodeTiming{Every: time.Second, Idle: 5 * time.Second, Retire: 3 * time.Second}
}

// recoder encodes layers in the background (docs/adr/0008): those of which this
// node coordinates the family, and its share of those that nobody does.
type recoder struct {
	m       *Manager
	applied uint64 // of the directory in which there was no work
	running atomic.Bool
	failed  atomic.Int64 // when an encoding failed last, by elapsed
	wg      sync.WaitGroup

	// The rest is for the loop alone.
	known map[sheepdog.LayerID]witnessed
	small map[sheepdog.LayerID]measured // working layers that are not worth it
}

// measured is when the coordinator of a working layer, which may be over, had written
// last before the layer was measured, and where it notes that.
type measured struct {
	token     sheepdog.Token
	lastWrite *atomic.Int64 // by elapsed
	wrote     int64
}

// still reports whether nobody has written the layer since.
func (m measured) still(f *directory.Family) bool {
	return m.lastWrite != nil && m.token == f.Token && f.Coordinator.IsZero() && m.lastWrite.Load() == m.wrote
}

// witnessed is when all members of an epoch were seen to know of an encoding.
type witnessed struct {
	epoch sheepdog.Epoch
	at    time.Time
}

func (m *Manager) recodeLoop() {
	r := &recoder{m: m, known: make(map[sheepdog.LayerID]witnessed), small: make(map[sheepdog.LayerID]measured)}
	defer r.wg.Wait()
	t := time.NewTicker(m.opt.Recode.Every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-m.ctx.Done():
			return
		}
		r.look()
	}
}

// look goes over what there is to do once.
func (r *recoder) look() {
	dir, v := r.m.opt.Directory, r.m.opt.Cluster.View()
	applied := dir.Applied()
	if v == nil || applied == r.applied {
		return
	}
	work := dir.CodingWork()
	if len(work) == 0 {
		r.applied = applied
		return
	}
	for i := range work {
		l := &work[i]
		f, ok := dir.Family(l.Family)
		if !ok || !r.mine(v, f) && !r.begun(l) {
			continue
		}
		if err := r.treat(v, l, f); err != nil && r.m.ctx.Err() == nil {
			r.m.opt.Logger.Debug("layer is not encoded for now", "layer", l.ID, "err", err)
		}
	}
}

// begun reports whether this process has begun to encode the layer. It gives up what
// it failed at also when the family is another node's by then: nobody else knows.
func (r *recoder) begun(l *directory.Layer) bool {
	coded, ok := r.m.opt.Directory.Layer(l.Recoding)
	return ok && l.Recoding != 0 && coded.Encoder.Incarnation == r.m.opt.Incarnation
}

// mine reports whether this node works for the family: its coordinator, else one
// of those with storage.
func (r *recoder) mine(v *sheepdog.View, f directory.Family) bool {
	if holder, ok := r.m.holder(f); ok {
		return holder.Incarnation == r.m.opt.Incarnation
	}
	var storing []sheepdog.Member
	for _, m := range v.Members {
		if m.VNodes > 0 {
			storing = append(storing, m)
		}
	}
	return len(storing) > 0 && storing[uint64(f.ID)%uint64(len(storing))].ID == r.m.opt.Self
}

func (r *recoder) treat(v *sheepdog.View, l *directory.Layer, f directory.Family) error {
	ctx := r.m.ctx
	policy := l.Wanted(&f)
	switch {
	case l.Retiring:
		return r.retire(ctx, v, l)
	case l.Recoding != 0:
		return r.abandoned(ctx, v, l)
	case policy.Parity == 0 || v.StorageZones() < policy.Zones() || r.running.Load() || r.m.elapsed()-r.failed.Load() < int64(failurePause):
		return nil
	case l.Frozen:
		if l.Parent != 0 {
			if p, ok := r.m.opt.Directory.Layer(l.Parent); ok && p.Written {
				return nil // that one first
			}
		}
		r.start(&directory.Recode{Layer: l.ID, Policy: policy})
		return nil
	}
	if e, err := r.m.opt.Directory.Lookup(f.Name); err != nil || e.Moving {
		return err
	}
	worth, err := r.worth(ctx, l, f, policy)
	if err == nil && worth {
		r.start(&directory.Recode{Layer: l.ID, Policy: policy, Freeze: true})
	}
	return err
}

// failurePause is the wait after an encoding that failed.
const failurePause = 5 * time.Second

// start encodes a layer beside the loop, one at a time.
func (r *recoder) start(cmd *directory.Recode) {
	r.running.Store(true)
	r.wg.Go(func() {
		defer r.running.Store(false)
		if err := r.m.recode(r.m.ctx, cmd); err != nil && r.m.ctx.Err() == nil {
			r.failed.Store(r.m.elapsed())
			r.m.opt.Logger.Warn("layer could not be encoded; it stays replicated for now", "layer", cmd.Layer, "policy", cmd.Policy, "err", err)
		}
	})
}

// abandoned gives up what a process that ended was encoding, and what this one
// has failed at.
func (r *recoder) abandoned(ctx context.Context, v *sheepdog.View, l *directory.Layer) error {
	coded, ok := r.m.opt.Directory.Layer(l.Recoding)
	if !ok {
		return nil
	}
	m, member := v.Member(coded.Encoder.Node)
	lives := member && m.Incarnation == coded.Encoder.Incarnation
	if lives && (coded.Encoder.Incarnation != r.m.opt.Incarnation || r.running.Load()) {
		return nil
	}
	_, err := r.m.propose(ctx, &directory.GiveUp{Time: r.m.now(), Layer: l.ID, Coded: l.Recoding})
	return err
}

// Code has the data of a snapshot encoded in the background.
func (m *Manager) Code(ctx context.Context, cmd directory.Code) error {
	cmd.Time = m.now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// Lose marks objects of a coded layer as lost.
func (m *Manager) Lose(ctx context.Context, cmd directory.Lose) error {
	cmd.Time = m.now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// recode encodes one layer from beginning to end.
func (m *Manager) recode(ctx context.Context, cmd *directory.Recode) error {
	rec, err := m.beginRecode(ctx, cmd)
	if err != nil {
		return err
	}
	objects, err := m.encode(ctx, rec)
	if err == nil {
		_, err = m.propose(ctx, &directory.Recoded{Time: m.now(), Layer: rec.Layer, Coded: rec.Coded, Objects: objects})
	}
	return err // the loop gives up what is unfinished
}

func (m *Manager) beginRecode(ctx context.Context, cmd *directory.Recode) (directory.Recoding, error) {
	cmd.Time, cmd.Encoder = m.now(), directory.Coordinator{Node: m.opt.Self, Incarnation: m.opt.Incarnation}
	if !cmd.Freeze {
		return commit[directory.Recoding](ctx, m, cmd)
	}
	l, ok := m.opt.Directory.Layer(cmd.Layer)
	if !ok {
		return directory.Recoding{}, sheepdog.ErrNotFound
	}
	c, _, _, err := m.route(ctx, l.Family)
	if err != nil {
		return directory.Recoding{}, err
	}
	if c == nil {
		return directory.Recoding{}, errMoved
	}
	defer m.idle(ctx, l.Family)
	if err := c.quiesce(ctx); err != nil {
		return directory.Recoding{}, err
	}
	defer c.gate.open()
	cmd.IfToken = c.scope.Token
	out, err := commit[directory.Recoding](ctx, m, cmd)
	c.settle(ctx, err)
	return out, err
}

// encodeParallel bounds the objects encoded at once.
const encodeParallel = 3

// encode writes the coded layer and makes it durable. It returns the number of
// its objects.
func (m *Manager) encode(ctx context.Context, rec directory.Recoding) (objects uint64, err error) {
	src := &codingSource{m: m, layers: append([]sheepdog.LayerID{rec.Layer}, rec.Merged...)}
	indexes, err := src.load(ctx)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	holders := make(map[sheepdog.NodeID]sheepdog.Incarnation)
	eg, gctx := errgroup.WithContext(ctx)
	eg.SetLimit(encodeParallel)
	for _, i := range indexes {
		eg.Go(func() error {
			got, err := m.opt.Coder.Encode(gctx, rec.Coded, i, func(ctx context.Context, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
				return src.read(ctx, i, start, count, buf, states)
			})
			if err != nil || len(got) == 0 {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			objects++
			for id, life := range got {
				if was, ok := holders[id]; ok && was != life {
					return fmt.Errorf("node %s restarted meanwhile: %w", id, sheepdog.ErrConflict)
				}
				holders[id] = life
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return 0, err
	}
	return objects, m.opt.Coder.Flush(ctx, rec.Coded, holders)
}

// codingSource reads what a coded layer is made of: a layer and coded ones below
// it, newest first, without what is below those.
type codingSource struct {
	m      *Manager
	layers []sheepdog.LayerID
	maps   []*objectMap
	fams   []directory.Family
}

// load finds the indexes that there are.
func (s *codingSource) load(ctx context.Context) ([]sheepdog.Index, error) {
	all := newIndexSet()
	for _, layer := range s.layers {
		fam, ok := familyOf(s.m.opt.Directory, layer)
		if !ok {
			return nil, fmt.Errorf("layer %d was deleted: %w", layer, sheepdog.ErrNotFound)
		}
		held := s.m.frozen.objectMap(layer)
		if err := held.await(ctx); err != nil {
			return nil, err
		}
		all.union(held.set)
		s.maps, s.fams = append(s.maps, held), append(s.fams, fam)
	}
	return all.list(), nil
}

func (s *codingSource) read(ctx context.Context, index sheepdog.Index, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	clear(buf)
	clear(states)
	var below []byte
	got := make([]sheepdog.BlockState, count)
	for k, layer := range s.layers {
		if !s.maps[k].has(index) || !anyAbsent(states) {
			continue
		}
		if below == nil {
			below = make([]byte, len(buf))
		}
		req := sheepdog.ReadRequest{Policy: s.fams[k].Policy, Object: sheepdog.ObjectID{Family: s.fams[k].ID, Index: index},
			Layer: layer, Start: start, Count: count, Buf: below, States: got}
		if err := s.m.opt.Objects.Read(ctx, &req); err != nil {
			return err
		}
		for i, state := range got {
			if states[i] == sheepdog.Absent && state != sheepdog.Absent {
				states[i] = state
				copy(buf[i*sheepdog.BlockSize:(i+1)*sheepdog.BlockSize], below[i*sheepdog.BlockSize:])
			}
		}
	}
	return nil
}

// methodApplied asks a member to answer when its directory has a Raft index.
const methodApplied = "vdi.applied"

type appliedCall struct {
	Applied uint64 `json:"applied"`
}

// retire empties a layer that was encoded, some time after all members know it:
// what a node that was removed before still serves under its lease is over then.
func (r *recoder) retire(ctx context.Context, v *sheepdog.View, l *directory.Layer) error {
	w, ok := r.known[l.ID]
	if !ok || w.epoch != v.Epoch {
		if err := r.witness(ctx, v); err != nil {
			return err
		}
		r.known[l.ID] = witnessed{v.Epoch, time.Now()}
		return nil
	}
	if time.Since(w.at) < r.m.opt.Recode.Retire {
		return nil
	}
	_, err := r.m.propose(ctx, &directory.Retire{Time: r.m.now(), Layer: l.ID, Epoch: v.Epoch})
	if err == nil || errors.Is(err, sheepdog.ErrConflict) {
		delete(r.known, l.ID)
	}
	return err
}

// witnessTimeout bounds the wait for the slowest member.
const witnessTimeout = 5 * time.Second

func (r *recoder) witness(ctx context.Context, v *sheepdog.View) error {
	body, err := json.Marshal(appliedCall{Applied: r.m.opt.Directory.Applied()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	eg, ctx := errgroup.WithContext(ctx)
	for _, member := range v.Members {
		if member.ID == r.m.opt.Self {
			continue
		}
		eg.Go(func() error {
			_, err := r.m.opt.Peers.Call(ctx, member, methodApplied, body)
			return err
		})
	}
	return eg.Wait()
}

// controlApplied answers methodApplied.
func (m *Manager) controlApplied(ctx context.Context, body []byte) error {
	var call appliedCall
	if err := json.Unmarshal(body, &call); err != nil {
		return fmt.Errorf("%s: %v: %w", methodApplied, err, sheepdog.ErrInvalid)
	}
	for {
		changed := m.opt.Directory.Changed()
		if m.opt.Directory.Applied() >= call.Applied {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// rebase forgets the object map of frozen layers below the working one when they
// have nothing any more: reads then go to the base at once. All of them must still
// be there: what one held that the working layer has absorbed is the working
// layer's now, and in no other map than this.
func (c *coordinator) rebase() {
	t := c.top.Load()
	if t == nil || t.below == nil {
		return
	}
	chain := logicalChain(c.m.opt.Directory, t.layer)
	if len(chain) == 0 || !slices.Equal(idsOf(chain[1:]), t.under) || slices.ContainsFunc(chain[1:], func(l directory.Layer) bool { return l.Written }) {
		return
	}
	c.top.CompareAndSwap(t, &top{layer: t.layer, own: t.own, under: t.under})
}

func idsOf(layers []directory.Layer) []sheepdog.LayerID {
	out := make([]sheepdog.LayerID, 0, len(layers))
	for _, l := range layers {
		out = append(out, l.ID)
	}
	return out
}
