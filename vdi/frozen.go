package vdi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// frozenReader reads frozen layers from any acting replica through a cache in
// memory. Frozen bytes never change, so it needs no coordinator and no
// coherence. Layer 0 is the base of nothing: it reads as absent.
type frozenReader struct {
	ctx     context.Context
	run     func(func()) bool
	dir     *directory.Directory
	objects Objects
	cache   *baseCache
	self    sheepdog.NodeID
	cluster Cluster
	shelf   Shelf // nil: none

	mu   sync.Mutex
	maps map[sheepdog.LayerID]*objectMap // by the top layer: of it and all below it in its family
}

// newFrozenReader makes a reader whose lists end with ctx, each fetched in a goroutine
// of run's.
func newFrozenReader(ctx context.Context, run func(func()) bool, opt *Options) *frozenReader {
	return &frozenReader{ctx: ctx, run: run, dir: opt.Directory, objects: opt.Objects, self: opt.Self, cluster: opt.Cluster, shelf: opt.Shelf,
		cache: newBaseCache(opt.BaseCache), maps: make(map[sheepdog.LayerID]*objectMap)}
}

// fill puts the bytes of the base layer into the blocks of buf whose state is
// Absent.
func (r *frozenReader) fill(ctx context.Context, layer sheepdog.LayerID, index sheepdog.Index, start sheepdog.BlockNo, states []sheepdog.BlockState, buf []byte) error {
	if layer == 0 {
		return nil // Read has zeroed what is not Data
	}
	for i := 0; i < len(states); {
		if states[i] != sheepdog.Absent {
			i++
			continue
		}
		j := i + 1
		for j < len(states) && states[j] == sheepdog.Absent {
			j++
		}
		err := r.read(ctx, layer, index, start+sheepdog.BlockNo(i), uint32(j-i), buf[i*sheepdog.BlockSize:j*sheepdog.BlockSize])
		if err != nil {
			return err
		}
		i = j
	}
	return nil
}

// read fills buf with the bytes of whole blocks as the frozen layer has them;
// what no layer holds reads as zeros.
func (r *frozenReader) read(ctx context.Context, layer sheepdog.LayerID, index sheepdog.Index, start sheepdog.BlockNo, count uint32, buf []byte) error {
	if layer == 0 {
		clear(buf)
		return nil
	}
	for done := uint32(0); done < count; {
		block := uint32(start) + done
		in := block % chunkBlocks
		n := min(chunkBlocks-in, count-done)
		dst := buf[int(done)*sheepdog.BlockSize : int(done+n)*sheepdog.BlockSize]
		key := Chunk{Layer: layer, Index: index, No: block / chunkBlocks}
		data, err := r.cache.get(ctx, key, func(ctx context.Context) ([]byte, error) { return r.fetch(ctx, key) })
		switch {
		case errors.Is(err, sheepdog.ErrIO):
			err = r.pick(ctx, stretch{layer, index, sheepdog.BlockNo(block), n}, dst)
		case data == nil:
			clear(dst)
		default:
			copy(dst, data[int(in)*sheepdog.BlockSize:])
		}
		if err != nil {
			return fmt.Errorf("read frozen layer %d: %w", layer, err)
		}
		done += n
	}
	return nil
}

// fetch loads a chunk from the shelf, or from replicas. Those of this node need no
// shelf: what the host holds of their files in memory is as near.
func (r *frozenReader) fetch(ctx context.Context, key Chunk) ([]byte, error) {
	if r.shelf != nil {
		if data := r.shelf.Get(key); data != nil {
			return data, nil
		}
	}
	data, err := r.load(ctx, stretch{key.Layer, key.Index, sheepdog.BlockNo(key.No * chunkBlocks), chunkBlocks})
	if err == nil && data != nil && r.shelf != nil && r.far(key) {
		r.shelf.Put(key, data)
	}
	return data, err
}

// far reports whether bytes of the chunk may come from other nodes.
func (r *frozenReader) far(key Chunk) bool {
	v := r.cluster.View()
	for layer := key.Layer; layer != 0; layer = baseOf(r.dir, layer) {
		fam, ok := familyOf(r.dir, layer)
		if v == nil || !ok || fam.Policy.IsStrips() {
			return true
		}
		obj := sheepdog.ObjectID{Family: fam.ID, Index: key.Index}
		if p, ok := v.Placement(fam.Policy, obj.Partition()); !ok || !p.IsActing(r.self) {
			return true
		}
	}
	return false
}

// pick reads blocks one by one, where something in their chunk is lost: that is no
// reason for others to fail.
func (r *frozenReader) pick(ctx context.Context, s stretch, dst []byte) error {
	for i := range s.count {
		one := stretch{s.layer, s.index, s.start + sheepdog.BlockNo(i), 1}
		data, err := r.load(ctx, one)
		if err != nil {
			return err
		}
		to := dst[int(i)*sheepdog.BlockSize : int(i+1)*sheepdog.BlockSize]
		clear(to)
		copy(to, data)
	}
	return nil
}

// stretch is blocks of an object of a layer.
type stretch struct {
	layer sheepdog.LayerID
	index sheepdog.Index
	start sheepdog.BlockNo
	count uint32
}

// holds reports whether the frozen layer, or one below it, may hold anything at
// the index. Who is told no must see that the lease is still valid, as after a read.
func (r *frozenReader) holds(ctx context.Context, layer sheepdog.LayerID, index sheepdog.Index) bool {
	for ; layer != 0; layer = baseOf(r.dir, layer) {
		if !r.objectMap(layer).lacks(ctx, index) {
			return true
		}
	}
	return false
}

// below runs read with the base of a layer, again if that was encoded anew and
// dropped meanwhile.
func (r *frozenReader) below(ctx context.Context, layer sheepdog.LayerID, read func(base sheepdog.LayerID) error) error {
	for {
		base := baseOf(r.dir, layer)
		err := read(base)
		if !errors.Is(err, sheepdog.ErrNotFound) || baseOf(r.dir, layer) == base || ctx.Err() != nil {
			return err
		}
	}
}

// load reads blocks through the layers of their family, then through bases. If
// a base is gone because it was encoded anew, it begins again. It returns nil for
// zeros alone.
func (r *frozenReader) load(ctx context.Context, at stretch) ([]byte, error) {
	for {
		changed := r.dir.Changed()
		data, err := r.loadOnce(ctx, at)
		if err == nil && r.mayMove(at.layer) && !r.cluster.LeaseValid() {
			// This node may be cut off, and not know that the bytes are elsewhere now.
			if err := awaitNews(ctx, changed); err != nil {
				return nil, err
			}
			continue
		}
		if !errors.Is(err, sheepdog.ErrNotFound) {
			return data, err
		}
		if _, ok := r.dir.Layer(at.layer); !ok {
			return nil, err
		}
		// Another node knows already that one of them is gone.
		if err := awaitNews(ctx, changed); err != nil {
			return nil, err
		}
	}
}

// mayMove reports whether the bytes of a layer are, or are to be, encoded.
func (r *frozenReader) mayMove(layer sheepdog.LayerID) bool {
	for _, l := range logicalChain(r.dir, layer) {
		f, ok := r.dir.Family(l.Family)
		if !ok || l.Strips == 0 && l.Wanted(&f).Parity > 0 || l.Recoding != 0 || l.Retiring {
			return true
		}
	}
	return false
}

func (r *frozenReader) loadOnce(ctx context.Context, at stretch) ([]byte, error) {
	var data []byte
	states := make([]sheepdog.BlockState, at.count)
	for layer := at.layer; layer != 0; {
		fam, ok := familyOf(r.dir, layer)
		if !ok {
			return nil, fmt.Errorf("layer %d was deleted: %w", layer, sheepdog.ErrNotFound)
		}
		may, err := r.mayHold(ctx, fam, layer, at.index)
		if err == nil && may {
			data, err = r.loadFamily(ctx, fam, layer, at, states, data)
		}
		if err != nil {
			return nil, err
		}
		if _, ok := r.dir.Layer(layer); !ok {
			return nil, fmt.Errorf("layer %d was deleted: %w", layer, sheepdog.ErrNotFound)
		}
		if !anyAbsent(states) {
			break
		}
		layer = baseOf(r.dir, layer)
	}
	return data, nil
}

// loadFamily reads the blocks from one family where they are still absent.
func (r *frozenReader) loadFamily(ctx context.Context, fam directory.Family, layer sheepdog.LayerID, at stretch, states []sheepdog.BlockState, data []byte) ([]byte, error) {
	got := make([]sheepdog.BlockState, at.count)
	count := min(at.count, 1<<(fam.BlockSizeShift-12)-uint32(at.start))
	buf := make([]byte, at.count*sheepdog.BlockSize)
	req := sheepdog.ReadRequest{Policy: fam.Policy, Object: sheepdog.ObjectID{Family: fam.ID, Index: at.index},
		Layer: layer, Start: at.start, Count: count,
		Buf: buf[:count*sheepdog.BlockSize], States: got[:count]}
	if err := r.objects.Read(ctx, &req); err != nil {
		return nil, err
	}
	for i := range states {
		if states[i] != sheepdog.Absent || got[i] == sheepdog.Absent {
			continue
		}
		states[i] = got[i]
		if got[i] == sheepdog.Data {
			if data == nil {
				data = make([]byte, len(buf))
			}
			b := i * sheepdog.BlockSize
			copy(data[b:b+sheepdog.BlockSize], buf[b:])
		}
	}
	return data, nil
}

func anyAbsent(states []sheepdog.BlockState) bool {
	for _, s := range states {
		if s == sheepdog.Absent {
			return true
		}
	}
	return false
}

// mayHold asks the object map. Of a coded layer only objects that it has can be read,
// so there it waits for the list.
func (r *frozenReader) mayHold(ctx context.Context, fam directory.Family, layer sheepdog.LayerID, index sheepdog.Index) (bool, error) {
	m := r.objectMap(layer)
	if fam.Policy.IsStrips() {
		if err := m.await(ctx); err != nil {
			return false, err
		}
	}
	return m.has(index), nil
}

// objectMap is that of the frozen layer and those below it in its family.
func (r *frozenReader) objectMap(layer sheepdog.LayerID) *objectMap {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.maps[layer]
	if m == nil {
		m = &objectMap{set: newIndexSet(), run: r.run, load: func(set *indexSet) error {
			return loadObjectMap(r.ctx, r.dir, r.objects, layer, set)
		}}
		r.maps[layer] = m
	}
	return m
}

// retain forgets the maps of layers that the directory no longer lists.
func (r *frozenReader) retain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for layer := range r.maps {
		if _, ok := r.dir.Layer(layer); !ok {
			delete(r.maps, layer)
		}
	}
}

// loadObjectMap asks all replicas for the indexes of the layer and those below
// it in the family, and adds them to the set. A layer that is deleted meanwhile moves its indexes to
// another, so the list of layers must be the same before and after.
func loadObjectMap(ctx context.Context, dir *directory.Directory, objects Objects, top sheepdog.LayerID, set *indexSet) error {
	for {
		changed := dir.Changed()
		layers := logicalChain(dir, top)
		if len(layers) == 0 {
			return fmt.Errorf("layer %d was deleted: %w", top, sheepdog.ErrNotFound)
		}
		err := indexesOf(ctx, dir, objects, layers, set)
		switch {
		case errors.Is(err, sheepdog.ErrNotFound):
			// Another node knows already that one of them was deleted.
			if err := awaitNews(ctx, changed); err != nil {
				return err
			}
		case err != nil:
			return err
		case sameLayers(layers, logicalChain(dir, top)):
			return nil
		}
	}
}

// indexesOf adds what the layers, newest first, may hold together. They are asked
// from the oldest upwards, which is how what moves meanwhile is met at least once.
func indexesOf(ctx context.Context, dir *directory.Directory, objects Objects, layers []directory.Layer, set *indexSet) error {
	for _, l := range slices.Backward(layers) {
		if !l.Written {
			continue
		}
		fam, ok := dir.Family(l.Family)
		if !ok {
			return fmt.Errorf("family %d: %w", l.Family, sheepdog.ErrNotFound)
		}
		scope := sheepdog.Scope{Family: l.Family, Policy: fam.Policy}
		if err := layerIndexes(ctx, objects, scope, &l, set.add); err != nil {
			return err
		}
	}
	return nil
}

// layerIndexes visits what a layer may hold, and what it absorbed, the oldest
// first: a replica that has not heard of that deletion lists it under its old id.
func layerIndexes(ctx context.Context, objects Objects, s sheepdog.Scope, l *directory.Layer, visit func(sheepdog.Index)) error {
	for _, id := range slices.Backward(l.Absorbed) {
		if err := objects.LayerIndexes(ctx, s, id, visit); err != nil {
			return err
		}
	}
	return objects.LayerIndexes(ctx, s, l.ID, visit)
}

// awaitNews waits for a change of the directory, for a moment, or until ctx
// ends.
func awaitNews(ctx context.Context, changed <-chan struct{}) error {
	t := time.NewTimer(newsPause)
	defer t.Stop()
	select {
	case <-changed:
		return nil
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newsPause is how long a reader waits to hear what other nodes know.
const newsPause = 20 * time.Millisecond

// logicalChain lists the layer and those below it in its family, newest first; none if
// the layer is gone. One below it may be absorbed while we look: then it begins again.
func logicalChain(dir *directory.Directory, top sheepdog.LayerID) []directory.Layer {
	var out []directory.Layer
	for id := top; id != 0; {
		l, ok := dir.Layer(id)
		switch {
		case ok:
			out, id = append(out, l), l.Parent
		case id == top:
			return nil
		default:
			out, id = out[:0], top
		}
	}
	return out
}

// baseOf is the frozen layer of another family below everything in the layer's
// own; 0: none.
func baseOf(dir *directory.Directory, layer sheepdog.LayerID) sheepdog.LayerID {
	base, _, _ := dir.BaseOf(layer)
	return base
}

func familyOf(dir *directory.Directory, layer sheepdog.LayerID) (directory.Family, bool) {
	l, ok := dir.Layer(layer)
	if !ok {
		return directory.Family{}, false
	}
	return dir.Family(l.Family)
}

func sameLayers(a, b []directory.Layer) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].ID != b[i].ID || len(a[i].Absorbed) != len(b[i].Absorbed) {
			return false
		}
	}
	return true
}

// adopt remembers the object map of a layer that was just frozen here.
func (r *frozenReader) adopt(layer sheepdog.LayerID, m *objectMap) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maps[layer] = m
}
