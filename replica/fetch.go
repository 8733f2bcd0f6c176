package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"sheepdog"
)

// fetchLooks is how often a fetch looks at blocks that are being written before
// it holds their writers up.
const fetchLooks = 3

// Fetch implements sheepdog.Replica. Records and bytes of a block belong
// together whatever is written meanwhile. Targets answer too: a takeover or a
// scrub may want to see them.
func (s *Server) Fetch(ctx context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	if r.WithData && uint64(r.Count)*sheepdog.BlockSize > sheepdog.MaxTransfer {
		return nil, fmt.Errorf("%w: %d blocks with data, at most %d", sheepdog.ErrInvalid, r.Count, sheepdog.MaxTransfer/sheepdog.BlockSize)
	}
	var reply *sheepdog.FetchReply
	err := s.await(ctx, func(v *sheepdog.View) (err error) {
		reply, err = s.fetch(v, r)
		return err
	})
	return reply, err
}

func (s *Server) fetch(v *sheepdog.View, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	p := r.Object.Partition()
	if err := s.admitFetch(v, r); err != nil {
		return nil, err
	}
	s.adopt(shardOf(p), v)
	reply, err := s.look(r)
	if err != nil {
		return nil, fmt.Errorf("node %s: fetch object %s layer %d: %w", s.cfg.Self, r.Object, r.Layer, err)
	}
	// As in read: what was dropped meanwhile must not be taken for absent.
	_, err = s.fenceWriter(s.view(), r.Revision, r.Policy, p)
	return reply, err
}

func (s *Server) admitFetch(v *sheepdog.View, r *sheepdog.FetchRequest) error {
	if _, err := s.fenceWriter(v, r.Revision, r.Policy, r.Object.Partition()); err != nil {
		return err
	}
	if err := s.checkBlocks(r.Object.Family, r.Start, r.Count); err != nil {
		return err
	}
	if err := s.knownLayer(r.Layer, sheepdog.ErrNotFound); err != nil {
		return s.fencedRather(r.Object.Family, r.Token, err)
	}
	if err := s.fencePolicy(r.Object.Family, r.Policy); err != nil {
		return err
	}
	return s.fenceToken(r.Object.Family, r.Token)
}

// look reads records, bytes, and records again: where the two agree the bytes
// in between are theirs, for no two writes of a block have one stamp. After a
// few vain looks the last one is taken with the writers held up.
func (s *Server) look(r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	if !r.WithData && !r.Verify {
		recs := make([]sheepdog.Record, r.Count)
		return &sheepdog.FetchReply{Records: recs}, s.records(r, recs)
	}
	if raw, ok := s.cfg.Engine.(sheepdog.RawEngine); ok && r.WithData && r.MayBeRaw {
		reply := &sheepdog.FetchReply{Records: make([]sheepdog.Record, r.Count), Data: r.Room(), Raw: true}
		return reply, raw.ReadRaw(r.Object, s.cfg.Layers.Logical(r.Layer), r.Start, r.Count, reply.Data, reply.Records)
	}
	for range fetchLooks {
		reply, stable, err := s.lookOnce(r)
		if err != nil || stable {
			return reply, err
		}
	}
	sh := &s.shards[shardOf(r.Object.Partition())]
	sh.gate.Lock()
	defer sh.gate.Unlock()
	reply, stable, err := s.lookOnce(r)
	if err == nil && !stable {
		return nil, fmt.Errorf("%w: blocks changed without a writer", sheepdog.ErrConflict)
	}
	return reply, err
}

func (s *Server) lookOnce(r *sheepdog.FetchRequest) (*sheepdog.FetchReply, bool, error) {
	reply := &sheepdog.FetchReply{Records: make([]sheepdog.Record, r.Count)}
	if err := s.records(r, reply.Records); err != nil {
		return nil, false, err
	}
	if err := s.bytes(r, reply); err != nil {
		return nil, false, err
	}
	scratch := recordsPool.Get().(*[]sheepdog.Record)
	defer recordsPool.Put(scratch)
	again := slices.Grow((*scratch)[:0], int(r.Count))[:r.Count]
	*scratch = again
	if err := s.records(r, again); err != nil {
		return nil, false, err
	}
	return reply, slices.Equal(reply.Records, again), nil
}

// recordsPool has room for the records of a second look.
var recordsPool = sync.Pool{New: func() any { return new([]sheepdog.Record) }}

func (s *Server) records(r *sheepdog.FetchRequest, recs []sheepdog.Record) error {
	return s.cfg.Engine.Records(r.Object, s.cfg.Layers.Logical(r.Layer), r.Start, r.Count, recs)
}

// bytes reads what the reply needs; without WithData it only verifies, in
// pieces, and of these only what is between data.
func (s *Server) bytes(r *sheepdog.FetchRequest, reply *sheepdog.FetchReply) error {
	const piece = 256
	chain := s.cfg.Layers.Logical(r.Layer)
	var verified []byte
	if r.WithData {
		reply.Data = r.Room()
	}
	states := make([]sheepdog.BlockState, piece)
	for at := uint32(0); at < r.Count; at += piece {
		from, n := at, min(piece, r.Count-at)
		dst := verified
		if r.WithData {
			dst = reply.Data[at*sheepdog.BlockSize:]
		} else {
			if from, n = dataIn(reply.Records, from, n); n == 0 {
				continue
			}
			verified = slices.Grow(verified[:0], int(n)*sheepdog.BlockSize)
			dst = verified[:n*sheepdog.BlockSize]
		}
		err := s.cfg.Engine.Read(r.Object, chain, r.Start+sheepdog.BlockNo(from), n, dst[:n*sheepdog.BlockSize], states[:n])
		var bad *sheepdog.BadBlocksError
		if errors.As(err, &bad) {
			reply.Bad = append(reply.Bad, bad.Blocks...)
			clearBad(r, reply, bad.Blocks)
			if r.WithData && s.cfg.Heal != nil { // who verifies for its own sake mends it, too
				s.cfg.Heal(r.Object, r.Layer, bad.Blocks)
			}
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dataIn cuts n records from one on down to those from the first to the last that has
// data.
func dataIn(recs []sheepdog.Record, from, n uint32) (uint32, uint32) {
	for n > 0 && recs[from].State != sheepdog.Data {
		from, n = from+1, n-1
	}
	for n > 0 && recs[from+n-1].State != sheepdog.Data {
		n--
	}
	return from, n
}

// clearBad zeroes bytes that failed their checksum: they must not leave.
func clearBad(r *sheepdog.FetchRequest, reply *sheepdog.FetchReply, bad []sheepdog.BlockNo) {
	if !r.WithData {
		return
	}
	for _, b := range bad {
		clear(reply.Data[uint64(b-r.Start)*sheepdog.BlockSize:][:sheepdog.BlockSize])
	}
}
