package coded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// ErrTooFewZones is returned when an object cannot be encoded because fewer
// zones have storage than it has strips.
var ErrTooFewZones = errors.New("too few zones with storage for the strips")

// encodePatience bounds the tries to write the strips of one object.
const encodePatience = 20 * time.Second

// Encode reads an object from source and writes its strips to the nodes that
// should hold them, for a coded layer that is not complete yet. source fills
// whole blocks and their states. It returns who got strips, in which life; none
// if the object has nothing. What is written is durable after Flush.
func (c *Client) Encode(ctx context.Context, layer sheepdog.LayerID, index sheepdog.Index,
	source func(ctx context.Context, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error) (map[sheepdog.NodeID]sheepdog.Incarnation, error) {
	ctx, cancel := context.WithTimeout(ctx, encodePatience)
	defer cancel()
	var holders map[sheepdog.NodeID]sheepdog.Incarnation
	var fatal error
	err := c.retry(ctx, layer, func(v *sheepdog.View, l *Layer) error {
		o, err := c.open(v, l, l.object(index))
		if err == nil && len(o.homes) < o.lay.strips() {
			err = fmt.Errorf("%w: %d zones, policy %s needs %d", ErrTooFewZones, len(o.homes), l.Policy, o.lay.strips())
		}
		if err != nil {
			fatal = err
			return nil
		}
		e := &encoding{object: o, source: source}
		if err := e.run(ctx); err != nil {
			return err
		}
		holders = e.holders()
		return nil
	})
	if err == nil {
		err = fatal
	}
	if err != nil {
		return nil, fmt.Errorf("encode object %d of coded layer %d: %w", index, layer, err)
	}
	return holders, nil
}

// encoding is one try to encode one object. Its nodes stay the same throughout,
// so that a strip is whole on its node.
type encoding struct {
	*object
	source func(ctx context.Context, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error
	any    bool     // something was written
	empty  []uint32 // segments before it that have nothing
}

func (e *encoding) holders() map[sheepdog.NodeID]sheepdog.Incarnation {
	if !e.any {
		return nil
	}
	out := make(map[sheepdog.NodeID]sheepdog.Incarnation)
	for _, m := range e.homes[:e.lay.strips()] {
		out[m.ID] = m.Incarnation
	}
	return out
}

// run encodes segment by segment. An object with nothing is not written; in
// others an empty segment has its header, for the last one says that a strip is
// whole.
func (e *encoding) run(ctx context.Context) error {
	buf := make([]byte, e.lay.segment*sheepdog.BlockSize)
	for s := range e.lay.segments() {
		states := make([]sheepdog.BlockState, e.lay.segment)
		if err := e.source(ctx, sheepdog.BlockNo(s*e.lay.segment), e.lay.segment, buf, states); err != nil {
			return err
		}
		if !normalise(buf, states, e.layer.Based) && !e.any {
			e.empty = append(e.empty, s)
			continue
		}
		e.any = true
		for _, before := range e.empty {
			if err := e.write(ctx, before, make([]sheepdog.BlockState, e.lay.segment), buf); err != nil {
				return err
			}
		}
		e.empty = nil
		if err := e.write(ctx, s, states, buf); err != nil {
			return err
		}
	}
	return nil
}

// normalise takes blocks of zeros for Zero, and Zero for Absent where nothing
// is below. It reports whether anything is left.
func normalise(buf []byte, states []sheepdog.BlockState, based bool) bool {
	left := false
	for i, s := range states {
		if s == sheepdog.Data && allZero(buf[i*sheepdog.BlockSize:][:sheepdog.BlockSize]) {
			s = sheepdog.Zero
		}
		if s == sheepdog.Zero && !based {
			s = sheepdog.Absent
		}
		states[i] = s
		left = left || s != sheepdog.Absent
	}
	return left
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	return true
}

// write encodes a segment and puts every strip on its node.
func (e *encoding) write(ctx context.Context, segment uint32, states []sheepdog.BlockState, buf []byte) error {
	h := newHeader(e.layer.ID, e.id.Index, segment, states)
	seg, err := e.lay.code(e.codec, h, buf)
	if err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	for k := range e.lay.strips() {
		eg.Go(func() error { return e.put(ctx, e.homes[k], k, e.lay.headerAt(segment), e.lay.strip(seg, k)) })
	}
	return eg.Wait()
}

// put writes blocks of strip k on a member.
func (o *object) put(ctx context.Context, m sheepdog.Member, k int, at sheepdog.BlockNo, data []byte) error {
	req := &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: o.view.Revision}, Policy: o.layer.Policy, Object: o.id, Layer: o.layer.strip(k),
		Start: at, Count: uint32(len(data) / sheepdog.BlockSize), Data: data, Stamp: stripStamp, Repair: true}
	done := make(chan error, 1)
	o.cfg.Peers.Replica(m).Write(ctx, []*sheepdog.WriteRequest{req}, func(_ int, err error) { done <- err })
	if err := <-done; err != nil {
		o.note(m, err)
		return fmt.Errorf("strip %d of object %s to node %s (%s): %w", k, o.id, m.ID, m.Addr, err)
	}
	return nil
}

// Flush makes what the holders got durable. It fails if one of them is not
// there any more in the life in which it got it.
func (c *Client) Flush(ctx context.Context, layer sheepdog.LayerID, holders map[sheepdog.NodeID]sheepdog.Incarnation) error {
	v := c.cfg.Views.View()
	l, ok := c.cfg.Layers.Coded(layer)
	if !ok || v == nil {
		return gone(layer)
	}
	eg, ctx := errgroup.WithContext(ctx)
	for id, life := range holders {
		m, ok := v.Member(id)
		if !ok || m.Incarnation != life {
			return fmt.Errorf("node %s ended while coded layer %d was written: %w", id, layer, sheepdog.ErrConflict)
		}
		eg.Go(func() error {
			err := c.cfg.Peers.Replica(m).Flush(ctx, &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: v.Revision}, Family: l.Family})
			if err != nil {
				c.note(m, err)
				return fmt.Errorf("flush strips on node %s (%s): %w", m.ID, m.Addr, err)
			}
			return nil
		})
	}
	return eg.Wait()
}
