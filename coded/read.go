package coded

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// Read fills req from the coded layer req.Layer. The object must be one of the
// layer's. It waits while fewer than D strips can be reached, until ctx ends; of an
// object that is marked as lost the error wraps sheepdog.ErrIO then.
func (c *Client) Read(ctx context.Context, req *sheepdog.ReadRequest) error {
	err := c.retry(ctx, req.Layer, func(v *sheepdog.View, l *Layer) error {
		o, err := c.open(v, l, req.Object)
		if err != nil {
			return err
		}
		return l.final(req.Object.Index, o.read(ctx, req.Start, req.Count, req.Buf, req.States))
	})
	if err != nil {
		return fmt.Errorf("read object %s of coded layer %d: %w", req.Object, req.Layer, err)
	}
	return nil
}

// States tells the states of blocks of an object of a coded layer.
func (c *Client) States(ctx context.Context, layer sheepdog.LayerID, obj sheepdog.ObjectID, start sheepdog.BlockNo, states []sheepdog.BlockState) error {
	return c.retry(ctx, layer, func(v *sheepdog.View, l *Layer) error {
		o, err := c.open(v, l, obj)
		if err != nil {
			return err
		}
		for done := uint32(0); done < uint32(len(states)); {
			h, in, n, err := o.cut(ctx, uint32(start)+done, uint32(len(states))-done)
			if err != nil {
				return l.final(obj.Index, err)
			}
			copy(states[done:done+n], h.states[in:in+n])
			done += n
		}
		return nil
	})
}

// object is one object of a coded layer in one view.
type object struct {
	*Client
	view  *sheepdog.View
	layer *Layer
	id    sheepdog.ObjectID
	lay   layout
	codec *Codec
	homes []sheepdog.Member
}

func (c *Client) open(v *sheepdog.View, l *Layer, obj sheepdog.ObjectID) (*object, error) {
	codec, err := c.codec(l.Policy)
	if err != nil {
		return nil, err
	}
	return &object{Client: c, view: v, layer: l, id: obj, lay: l.layout(), codec: codec, homes: homes(c.cfg.Ring, v, l, obj)}, nil
}

// cut finds the segment of a block, and how much of a range lies in it.
func (o *object) cut(ctx context.Context, block, count uint32) (h *header, in, n uint32, err error) {
	in = block % o.lay.segment
	h, err = o.header(ctx, block/o.lay.segment)
	return h, in, min(o.lay.segment-in, count), err
}

func (o *object) read(ctx context.Context, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	clear(buf)
	for done := uint32(0); done < count; {
		h, in, n, err := o.cut(ctx, uint32(start)+done, count-done)
		if err != nil {
			return err
		}
		copy(states[done:done+n], h.states[in:in+n])
		if err := o.readSegment(ctx, h, in, n, buf[int(done)*sheepdog.BlockSize:]); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// readSegment gets the blocks in..in+n of a segment: of each data strip the rows
// that they are in, which follow each other.
func (o *object) readSegment(ctx context.Context, h *header, in, n uint32, buf []byte) error {
	wanted := make([][]uint32, o.lay.data) // blocks, by strip
	for b := in; b < in+n; b++ {
		if h.states[b] == sheepdog.Data {
			k := int(h.rank[b]) % o.lay.data
			wanted[k] = append(wanted[k], b)
		}
	}
	eg, ctx := errgroup.WithContext(ctx)
	for k, blocks := range wanted {
		if len(blocks) == 0 {
			continue
		}
		eg.Go(func() error {
			first := uint32(int(h.rank[blocks[0]]) / o.lay.data)
			data, err := o.rows(ctx, h, k, first, uint32(len(blocks)))
			if err != nil {
				return err
			}
			for i, b := range blocks {
				copy(buf[(b-in)*sheepdog.BlockSize:][:sheepdog.BlockSize], data[i*sheepdog.BlockSize:])
			}
			return nil
		})
	}
	return eg.Wait()
}

// header finds the header of a segment on any node.
func (o *object) header(ctx context.Context, segment uint32) (*header, error) {
	key := headerKey{o.layer.ID, o.id.Index, segment}
	o.mu.Lock()
	h := o.headers[key]
	o.mu.Unlock()
	if h != nil {
		return h, nil
	}
	var errs []error
	for i := range o.lay.strips() {
		b, err := o.fetch(ctx, i, o.lay.headerAt(segment), 1, i >= o.lay.parity)
		if err == nil {
			h, err = o.lay.decode(b, o.layer.ID, o.id.Index, segment)
		}
		if err == nil {
			o.mu.Lock()
			remember(o.headers, key, h)
			o.mu.Unlock()
			return h, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w: no header of object %s: %v", errMissing, o.id, errs[len(errs)-1])
}

// rows returns rows of a strip, reconstructed if the strip cannot be had.
func (o *object) rows(ctx context.Context, h *header, k int, first, count uint32) ([]byte, error) {
	at := o.lay.rowAt(h.segment, first)
	data, err := o.fetch(ctx, k, at, count, false)
	if err == nil || ctx.Err() != nil {
		return data, err
	}
	if data, rerr := o.reconstruct(ctx, h, k, first, count, false); rerr == nil {
		return data, nil
	}
	if data, err = o.fetch(ctx, k, at, count, true); err == nil {
		return data, nil
	}
	return o.reconstruct(ctx, h, k, first, count, true)
}

// reconstruct makes rows of strip k from those of others. Rows that a data strip
// does not have count as zeros.
func (o *object) reconstruct(ctx context.Context, h *header, k int, first, count uint32, search bool) ([]byte, error) {
	shards := make([][]byte, o.lay.strips())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	have := 0
	for j := range shards {
		if j == k {
			continue
		}
		wg.Go(func() {
			shard := make([]byte, count*sheepdog.BlockSize)
			if n := o.lay.rows(h, j); n > first {
				b, err := o.fetch(ctx, j, o.lay.rowAt(h.segment, first), min(count, n-first), search)
				if err != nil {
					return
				}
				copy(shard, b)
			}
			mu.Lock()
			defer mu.Unlock()
			if have < o.lay.data {
				shards[j] = shard
				have++
			}
			if have == o.lay.data {
				cancel() // the others are not needed
			}
		})
	}
	wg.Wait()
	if have < o.lay.data {
		return nil, fmt.Errorf("%w: %d of the %d that strip %d of object %s, layer %d, needs", errMissing, have, o.lay.data, k, o.id, o.layer.ID)
	}
	want := make([]bool, len(shards))
	want[k] = true
	if err := o.codec.Reconstruct(shards, want); err != nil {
		return nil, err
	}
	return shards[k], nil
}

// fetchTimeout bounds the wait for a strip before others are asked.
const fetchTimeout = 2 * time.Second

// fetch gets blocks of strip k from where it should be, or was found last; with
// search from wherever it is.
func (o *object) fetch(ctx context.Context, k int, at sheepdog.BlockNo, count uint32, search bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	m, ok := o.where(k)
	err := error(errMissing)
	if ok {
		var b []byte
		if b, err = o.fetchFrom(ctx, m, k, at, count); err == nil {
			return b, nil
		}
	}
	if !search {
		return nil, err
	}
	return o.search(ctx, k, at, count)
}

// where is the member that is asked first for strip k.
func (o *object) where(k int) (sheepdog.Member, bool) {
	o.mu.Lock()
	id, ok := o.found[stripKey{o.layer.strip(k), o.id.Index}]
	o.mu.Unlock()
	if ok {
		if m, member := o.view.Member(id); member {
			return m, true
		}
	}
	if k < len(o.homes) {
		return o.homes[k], true
	}
	return sheepdog.Member{}, false
}

// search asks all members at once; a strip is the same wherever it is.
func (o *object) search(ctx context.Context, k int, at sheepdog.BlockNo, count uint32) ([]byte, error) {
	members := storing(o.view)
	type answer struct {
		from sheepdog.Member
		data []byte
	}
	answers := make(chan answer, len(members))
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	for _, m := range members {
		wg.Go(func() {
			data, err := o.fetchFrom(ctx, m, k, at, count)
			if err != nil {
				data = nil
			}
			answers <- answer{m, data}
		})
	}
	for range members {
		if a := <-answers; a.data != nil {
			o.mu.Lock()
			remember(o.found, stripKey{o.layer.strip(k), o.id.Index}, a.from.ID)
			o.mu.Unlock()
			return a.data, nil
		}
	}
	return nil, fmt.Errorf("%w: nobody has strip %d of object %s, layer %d", errMissing, k, o.id, o.layer.ID)
}

// fetchFrom gets blocks of strip k from a member; all of them or an error.
func (o *object) fetchFrom(ctx context.Context, m sheepdog.Member, k int, at sheepdog.BlockNo, count uint32) ([]byte, error) {
	reply, err := o.cfg.Peers.Replica(m).Fetch(ctx, &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: o.view.Revision}, Policy: o.layer.Policy,
		Object: o.id, Layer: o.layer.strip(k), Start: at, Count: count, WithData: true})
	if err != nil {
		o.note(m, err)
		return nil, fmt.Errorf("strip %d of object %s on node %s (%s): %w", k, o.id, m.ID, m.Addr, err)
	}
	if len(reply.Bad) > 0 {
		return nil, fmt.Errorf("strip %d of object %s on node %s (%s): %w", k, o.id, m.ID, m.Addr, sheepdog.ErrChecksum)
	}
	if slices.ContainsFunc(reply.Records, func(r sheepdog.Record) bool { return r.State == sheepdog.Absent }) {
		return nil, fmt.Errorf("%w: node %s (%s) does not have strip %d of object %s", errMissing, m.ID, m.Addr, k, o.id)
	}
	return reply.Data, nil
}
