package coded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sheepdog"
)

// Server answers for the strips on this node and passes everything else on to
// the Replica that it wraps.
type Server struct {
	sheepdog.Replica
	engine sheepdog.Engine
	layers Layers
}

// NewServer wraps the replica of this node.
func NewServer(inner sheepdog.Replica, engine sheepdog.Engine, layers Layers) *Server {
	return &Server{Replica: inner, engine: engine, layers: layers}
}

// catchUp is how long a request waits for this node to learn of its layer.
const catchUp = 2 * time.Second

// layer finds a coded layer by the id of a strip, waiting while the directory
// here may lag. The error wraps sheepdog.ErrNotFound if it was dropped.
func (s *Server) layer(ctx context.Context, id sheepdog.LayerID) (Layer, error) {
	timer := time.NewTimer(catchUp)
	defer timer.Stop()
	for {
		changed := s.layers.Changed()
		if l, ok := s.layers.Coded(id); ok {
			return l, nil
		}
		if s.layers.Dropped(id) {
			return Layer{}, gone(id)
		}
		select {
		case <-changed:
		case <-timer.C:
			return Layer{}, fmt.Errorf("coded layer %d is not known here after %v: %w", id, catchUp, sheepdog.ErrBehind)
		case <-ctx.Done():
			return Layer{}, context.Cause(ctx)
		}
	}
}

// Write implements sheepdog.Replica.
func (s *Server) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	var others []*sheepdog.WriteRequest
	var at []int
	for i, r := range reqs {
		if r != nil && r.Policy.IsStrips() {
			if at == nil {
				others, at = append(others, reqs[:i]...), make([]int, i, len(reqs))
				for j := range i {
					at[j] = j
				}
			}
			done(i, s.write(ctx, r))
		} else if at != nil {
			others, at = append(others, r), append(at, i)
		}
	}
	switch {
	case at == nil:
		s.Replica.Write(ctx, reqs, done)
	case len(others) > 0:
		s.Replica.Write(ctx, others, func(i int, err error) { done(at[i], err) })
	}
}

// write stores blocks of a strip: of a layer that is being encoded, or in place
// of what is missing or bad here.
func (s *Server) write(ctx context.Context, r *sheepdog.WriteRequest) error {
	l, err := s.layer(ctx, r.Layer)
	if err != nil {
		return fmt.Errorf("write strip: %w: %w", sheepdog.ErrFrozen, err)
	}
	if err := checkRange(&l, r.Object, r.Start, r.Count); err != nil {
		return err
	}
	if uint64(len(r.Data)) != uint64(r.Count)*sheepdog.BlockSize {
		return fmt.Errorf("write strip: %d bytes for %d blocks: %w", len(r.Data), r.Count, sheepdog.ErrInvalid)
	}
	if l.Complete && s.whole(r) {
		return nil
	}
	return s.store(r.Object, r.Layer, r.Start, r.Data)
}

func checkRange(l *Layer, obj sheepdog.ObjectID, start sheepdog.BlockNo, count uint32) error {
	lay := l.layout()
	if limit := uint64(lay.segments()) * uint64(lay.span); obj.Family != l.Family || count == 0 || uint64(start)+uint64(count) > limit {
		return fmt.Errorf("blocks %d to %d of a strip of object %s: %w", start, uint64(start)+uint64(count), obj, sheepdog.ErrInvalid)
	}
	return nil
}

// whole reports whether this node has all blocks of the request, good.
func (s *Server) whole(r *sheepdog.WriteRequest) bool {
	states := make([]sheepdog.BlockState, r.Count)
	err := s.engine.Read(r.Object, []sheepdog.LayerID{r.Layer}, r.Start, r.Count, make([]byte, len(r.Data)), states)
	return err == nil && !slices.Contains(states, sheepdog.Absent)
}

func (s *Server) store(obj sheepdog.ObjectID, layer sheepdog.LayerID, start sheepdog.BlockNo, data []byte) error {
	errs := make([]error, 1)
	s.engine.Write([]sheepdog.Op{{Object: obj, Layer: layer, Start: start, Count: uint32(len(data) / sheepdog.BlockSize), Data: data, Stamp: stripStamp, Force: true}}, errs)
	if errs[0] != nil {
		return fmt.Errorf("write strip of object %s, layer %d: %w", obj, layer, errs[0])
	}
	return nil
}

// Fetch implements sheepdog.Replica. What this node does not have is absent.
func (s *Server) Fetch(ctx context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	if !r.Policy.IsStrips() {
		return s.Replica.Fetch(ctx, r)
	}
	l, err := s.layer(ctx, r.Layer)
	if err != nil {
		return nil, err
	}
	if err := checkRange(&l, r.Object, r.Start, r.Count); err != nil {
		return nil, err
	}
	if uint64(r.Count)*sheepdog.BlockSize > sheepdog.MaxTransfer {
		return nil, fmt.Errorf("fetch %d blocks of a strip: %w", r.Count, sheepdog.ErrInvalid)
	}
	reply := &sheepdog.FetchReply{Records: make([]sheepdog.Record, r.Count)}
	chain := []sheepdog.LayerID{r.Layer}
	if err := s.engine.Records(r.Object, chain, r.Start, r.Count, reply.Records); err != nil {
		return nil, err
	}
	if !r.WithData && !r.Verify {
		return reply, nil
	}
	data := r.Room()
	err = s.engine.Read(r.Object, chain, r.Start, r.Count, data, make([]sheepdog.BlockState, r.Count))
	var bad *sheepdog.BadBlocksError
	if errors.As(err, &bad) {
		reply.Bad, err = bad.Blocks, nil
		for _, b := range bad.Blocks {
			clear(data[uint64(b-r.Start)*sheepdog.BlockSize:][:sheepdog.BlockSize])
		}
	}
	if r.WithData {
		reply.Data = data
	}
	return reply, err
}

// Read implements sheepdog.Replica; strips are fetched.
func (s *Server) Read(ctx context.Context, r *sheepdog.ReadRequest) error {
	if r.Policy.IsStrips() {
		return fmt.Errorf("read of a strip: %w", sheepdog.ErrInvalid)
	}
	return s.Replica.Read(ctx, r)
}

// List implements sheepdog.Replica: for a coded layer it lists which strips of
// which objects are whole here, by index, then strip.
func (s *Server) List(ctx context.Context, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	if !r.Policy.IsStrips() {
		return s.Replica.List(ctx, r)
	}
	l, err := s.layer(ctx, r.Layer)
	if err != nil {
		return nil, err
	}
	entries, err := s.held(&l)
	if err != nil {
		return nil, err
	}
	if r.After != (sheepdog.ListEntry{}) {
		n, found := slices.BinarySearchFunc(entries, r.After, compareEntries)
		if found {
			n++
		}
		entries = entries[n:]
	}
	reply := &sheepdog.ListReply{Entries: entries, More: len(entries) > r.Limit}
	if reply.More {
		reply.Entries = entries[:r.Limit]
	}
	return reply, nil
}

func compareEntries(a, b sheepdog.ListEntry) int {
	return cmp.Or(cmp.Compare(a.Object.Index, b.Object.Index), cmp.Compare(a.Layer, b.Layer))
}

// Held lists which strips of which objects of a complete coded layer are whole here,
// by index, then strip.
func (s *Server) Held(l Layer) ([]sheepdog.ListEntry, error) { return s.held(&l) }

// held lists the whole strips here. The header of the last segment is written
// last, so it tells that all is there.
func (s *Server) held(l *Layer) ([]sheepdog.ListEntry, error) {
	lay := l.layout()
	var out []sheepdog.ListEntry
	for k := range lay.strips() {
		indexes, err := s.engine.LayerObjects(l.strip(k), 0, 0)
		if err != nil {
			return nil, fmt.Errorf("list strips of layer %d: %w", l.ID, err)
		}
		for _, i := range indexes {
			e := sheepdog.ListEntry{Object: l.object(i), Layer: l.strip(k)}
			var last [1]sheepdog.Record
			err := s.engine.Records(e.Object, []sheepdog.LayerID{e.Layer}, lay.headerAt(lay.segments()-1), 1, last[:])
			if errors.Is(err, sheepdog.ErrIO) {
				continue // nobody can tell what is there; the others are none the worse for it
			}
			if err != nil {
				return nil, err
			}
			if last[0].State == sheepdog.Absent {
				continue
			}
			out = append(out, e)
		}
	}
	slices.SortFunc(out, compareEntries)
	return out, nil
}
