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
	"sheepdog/vdi/directory"
)

// stripLists tells of which objects of complete coded layers there are whole
// strips, by the layer id of the strip.
type stripLists map[sheepdog.LayerID]directory.IndexList

// merge adds what another node has.
func (l stripLists) merge(more stripLists) {
	for id, list := range more {
		l[id] = l[id].Union(list)
	}
}

// handleStrips lists the strips of this node.
func (n *Node) handleStrips(ctx context.Context, body []byte) ([]byte, error) {
	var req layersRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", methodStrips, err, sheepdog.ErrInvalid)
	}
	if err := n.awaitDirectory(ctx, req.Applied); err != nil {
		return nil, err
	}
	out := stripLists{}
	for _, l := range n.layers().AllCoded() {
		if !l.Complete {
			continue
		}
		held, err := n.strips.Held(l)
		if err != nil {
			return nil, err
		}
		for _, e := range held {
			out[e.Layer] = append(out[e.Layer], e.Object.Index)
		}
	}
	return json.Marshal(out)
}

// strips asks the survivors for theirs; applied is how much of the log they must
// know.
func (f *forcing) strips(ctx context.Context, applied uint64) (stripLists, error) {
	body, err := json.Marshal(layersRequest{Applied: applied})
	if err != nil {
		return nil, err
	}
	lists := make([]stripLists, len(f.survivors))
	eg, ctx := errgroup.WithContext(ctx)
	for i, m := range f.survivors {
		eg.Go(func() error {
			if err := f.n.call(ctx, m, methodStrips, body, &lists[i]); err != nil {
				return fmt.Errorf("node %s does not tell which strips it holds: %w", m.Addr, err)
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	out := stripLists{}
	for _, l := range lists {
		out.merge(l)
	}
	return out, nil
}

// lostObjects is what a coded layer loses, besides what is marked as lost already.
type lostObjects struct {
	objects directory.IndexList
	left    uint64 // objects of the layer that are not lost
}

// lostStrips finds the objects of coded layers of which fewer strips are left than
// make them. If of some there are none at all nobody knows which those are: all
// indexes of the layer's VDIs that nothing is found of may be.
func (l *loss) lostStrips(held stripLists) map[sheepdog.LayerID]lostObjects {
	out := make(map[sheepdog.LayerID]lostObjects)
	var sizes map[sheepdog.LayerID]uint64
	for _, layer := range l.dir.AllCoded() {
		f, ok := l.dir.Family(layer.Family)
		if !ok || !layer.Complete() {
			continue
		}
		found := make(map[sheepdog.Index]int)
		for k := range sheepdog.LayerID(layer.Strips) {
			for _, i := range held[layer.ID+k] {
				found[i]++
			}
		}
		var o lostObjects
		for i, strips := range found {
			if strips < f.Policy.Zones()-f.Policy.ParityStrips() {
				o.objects = append(o.objects, i)
			} else if !layer.Lost.Has(i) {
				o.left++
			}
		}
		if uint64(len(found)) < layer.Objects && (len(layer.Lost) == 0 || o.left < layer.Left) {
			if sizes == nil {
				sizes = l.sizes()
			}
			for at := uint64(0); at < sizes[layer.ID]; at += 1 << f.BlockSizeShift {
				if i := sheepdog.Index(at >> f.BlockSizeShift); found[i] == 0 {
					o.objects = append(o.objects, i)
				}
			}
		}
		o.objects = slices.DeleteFunc(o.objects, layer.Lost.Has)
		slices.Sort(o.objects)
		if len(o.objects) > 0 {
			out[layer.ID] = o
		}
	}
	return out
}

// sizes is of every layer the size in bytes of the largest VDI or snapshot that is
// read through it.
func (l *loss) sizes() map[sheepdog.LayerID]uint64 {
	out := make(map[sheepdog.LayerID]uint64)
	note := func(id sheepdog.LayerID, size uint64) {
		for id != 0 {
			out[id] = max(out[id], size)
			layer, _ := l.dir.Layer(id)
			id = layer.Below()
		}
	}
	for _, e := range l.dir.List() {
		note(e.Layer, e.Size)
	}
	for _, t := range l.dir.Trash() {
		note(t.Layer, t.Size)
	}
	return out
}

// loseStrips has the directory mark what the survivors, who are the members now,
// cannot make any more.
func (f *forcing) loseStrips(ctx context.Context) (err error) {
	n := f.n
	if f.whole, err = f.strips(ctx, n.dir.Applied()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, forcePropose)
	defer cancel()
	var errs []error
	for id, o := range newLoss(n.cluster.View(), n.dir, f.assessment()).strips {
		err := n.vdis.Lose(ctx, directory.Lose{Time: time.Now(), Layer: id, Objects: o.objects, Left: o.left})
		if err != nil && !errors.Is(err, sheepdog.ErrConflict) { // deleted meanwhile
			errs = append(errs, fmt.Errorf("coded layer %d: %w", id, err))
		}
	}
	return errors.Join(errs...)
}
