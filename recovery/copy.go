package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// Sizes of one step, in blocks: records compared, and bytes moved.
const (
	compareBlocks = 8192
	copyBlocks    = 256
)

// Looks at blocks on which the target is ahead, and the waits between them.
const (
	aheadLooks = 8
	aheadWait  = 10 * time.Millisecond
)

// maxRestarts bounds how often an object is begun again because blocks of it
// had to be discarded.
const maxRestarts = 4

// errRestart says that a discard made all earlier comparison of the layer void.
var errRestart = errors.New("blocks were discarded")

// errAhead says that a write which only this node has may still reach the
// source, or may not.
var errAhead = errors.New("an unfinished write is only here")

// ahead is a block that the target holds with a higher stamp than the source.
type ahead struct {
	block sheepdog.BlockNo
	stamp sheepdog.Stamp
}

// layer makes one layer of an object equal to that of the source, and returns
// when the source has everything that was found here.
func (b *mover) layer(ctx context.Context, obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	for range maxRestarts {
		err := b.layerOnce(ctx, obj, layer)
		switch {
		case errors.Is(err, errRestart):
			continue
		case errors.Is(err, sheepdog.ErrFrozen), errors.Is(err, sheepdog.ErrNotFound):
			return nil // the layer was deleted meanwhile
		}
		return err
	}
	return fmt.Errorf("%w %d times: %w", errRestart, maxRestarts, sheepdog.ErrConflict)
}

func (b *mover) layerOnce(ctx context.Context, obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	var left []ahead
	limit, err := b.blocksOf(obj, layer)
	if err != nil {
		return err
	}
	for start := uint32(0); start < limit; start += compareBlocks {
		req := b.place(obj, layer)
		req.Start, req.Count = sheepdog.BlockNo(start), min(compareBlocks, limit-start)
		more, err := b.chunk(ctx, req)
		if err != nil {
			return err
		}
		left = append(left, more...)
	}
	return b.catchUp(ctx, obj, layer, left)
}

// blocksOf is how many blocks of a layer of an object there are to look at: none
// if it was deleted. What this node has not heard of yet is an error, because the
// object must not be taken for equal.
func (a *Agent) blocksOf(obj sheepdog.ObjectID, layer sheepdog.LayerID) (uint32, error) {
	shift, ok := a.cfg.Layers.ObjectShift(obj.Family)
	switch {
	case ok:
		return 1 << shift / sheepdog.BlockSize, nil
	case a.cfg.Layers.Dropped(layer):
		return 0, nil
	}
	return 0, fmt.Errorf("family %d is not known here: %w", obj.Family, sheepdog.ErrBehind)
}

// chunk compares one range and copies what differs. The records of this node
// are read first: a write that is on its way to both is then seen at the source
// rather than only here.
func (b *mover) chunk(ctx context.Context, req sheepdog.FetchRequest) ([]ahead, error) {
	mine, err := b.cfg.Local.Fetch(ctx, &req)
	if errors.Is(err, sheepdog.ErrIO) { // what is here cannot be told any more: all of it is fetched
		if derr := b.cfg.Local.Discard(ctx, &req); derr != nil {
			return nil, errors.Join(err, derr)
		}
		return nil, errRestart
	}
	if err != nil {
		return nil, err
	}
	theirs, err := b.fetch(ctx, b.source, &req)
	if err != nil {
		return nil, err
	}
	touched, err := b.touched(&req, mine.Records, theirs.Records)
	if err != nil {
		return nil, err
	}
	d := compare(req.Start, mine.Records, theirs.Records, touched)
	if d.orphans {
		if err := b.cfg.Local.Discard(ctx, &req); err != nil {
			return nil, err
		}
		return nil, errRestart
	}
	for _, run := range d.copy {
		part := req
		part.Start, part.Count = run.start, run.count
		if err := b.copyRun(ctx, part); err != nil {
			return nil, err
		}
	}
	return d.ahead, nil
}

// touched asks which blocks this interval wrote, if any block makes it matter.
func (b *backfill) touched(req *sheepdog.FetchRequest, mine, theirs []sheepdog.Record) ([]bool, error) {
	for i := range mine {
		if theirs[i].Stamp.Less(mine[i].Stamp) {
			return b.cfg.Local.Touched(req)
		}
	}
	return make([]bool, len(mine)), nil
}

// blockRun is a run of blocks.
type blockRun struct {
	start sheepdog.BlockNo
	count uint32
}

// difference is what a target has to do about a range.
type difference struct {
	copy    []blockRun
	ahead   []ahead
	orphans bool // blocks that the source does not have and nobody wrote
}

// compare is pure. Where a block was touched in this interval it goes by stamp;
// where not, the source is right.
func compare(start sheepdog.BlockNo, mine, theirs []sheepdog.Record, touched []bool) difference {
	var d difference
	for i := range mine {
		at := start + sheepdog.BlockNo(i)
		switch {
		case mine[i] == theirs[i]:
		case touched[i] && theirs[i].Stamp.Less(mine[i].Stamp):
			d.ahead = append(d.ahead, ahead{at, mine[i].Stamp})
		case theirs[i].State == sheepdog.Absent:
			d.orphans = true
		default:
			n := len(d.copy)
			if n > 0 && d.copy[n-1].start+sheepdog.BlockNo(d.copy[n-1].count) == at && d.copy[n-1].count < copyBlocks {
				d.copy[n-1].count++
				continue
			}
			d.copy = append(d.copy, blockRun{at, 1})
		}
	}
	return d
}

// copyRun moves a short run. The stamps are those that came with the bytes. These are
// verified here alone, from where they were written at the source to where they are
// written here, and so only once.
func (b *mover) copyRun(ctx context.Context, req sheepdog.FetchRequest) error {
	req.WithData = true
	into := req
	into.Buf, into.MayBeRaw = b.buf, true
	reply, err := b.fetch(ctx, b.source, &into)
	if err != nil {
		return err
	}
	b.moved += uint64(len(reply.Data))
	if reply.Raw {
		if err := b.verify(ctx, req, reply); err != nil {
			return err
		}
	}
	if err := b.replaceBad(ctx, req, reply); err != nil {
		return err
	}
	return b.writeAll(ctx, b.cfg.Local, repairs(&req, reply))
}

// verify checks a raw reply. Blocks that do not match are asked for again, in good
// order or not at all: what spoiled them may have been the way, and if it was the
// source's disk the source hears of it like this.
func (b *backfill) verify(ctx context.Context, req sheepdog.FetchRequest, reply *sheepdog.FetchReply) error {
	reply.Raw = false
	for i := range reply.Records {
		data := reply.Data[i*sheepdog.BlockSize:][:sheepdog.BlockSize]
		if reply.Records[i].State != sheepdog.Data || reply.Records[i].Holds(data) {
			continue
		}
		one := req
		one.Start, one.Count = req.Start+sheepdog.BlockNo(i), 1
		again, err := b.fetch(ctx, b.source, &one)
		if err != nil {
			return err
		}
		reply.Records[i] = again.Records[0]
		reply.Bad = append(reply.Bad, again.Bad...)
		copy(data, again.Data)
	}
	return nil
}

// replaceBad fetches blocks that are rotten at the source from other acting
// replicas. A block that none of them has in good order keeps the partition
// from being promoted: its loss must not look like older bytes.
func (b *backfill) replaceBad(ctx context.Context, req sheepdog.FetchRequest, reply *sheepdog.FetchReply) error {
	for _, at := range reply.Bad {
		i := int(at - req.Start)
		data, err := b.otherCopy(ctx, req, at, reply.Records[i])
		if err != nil {
			return err
		}
		copy(reply.Data[i*sheepdog.BlockSize:], data)
	}
	return nil
}

func (b *backfill) otherCopy(ctx context.Context, req sheepdog.FetchRequest, at sheepdog.BlockNo, want sheepdog.Record) ([]byte, error) {
	req.Start, req.Count = at, 1
	pl, _ := b.run.view.Placement(req.Policy, req.Object.Partition())
	members, _ := b.run.view.ActingMembers(pl)
	for _, m := range members {
		if m.ID == b.run.group.Sources[0] {
			continue
		}
		reply, err := b.fetch(ctx, b.replica(m.ID), &req)
		if err == nil && len(reply.Bad) == 0 && reply.Records[0] == want {
			return reply.Data, nil
		}
	}
	return nil, fmt.Errorf("block %d: no acting replica has good bytes: %w", at, sheepdog.ErrChecksum)
}

// fetch checks the shape of what another node sent.
func (a *Agent) fetch(ctx context.Context, from sheepdog.Replica, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	reply, err := from.Fetch(ctx, req)
	if err != nil {
		return nil, err
	}
	if len(reply.Records) != int(req.Count) || req.WithData && len(reply.Data) != int(req.Count)*sheepdog.BlockSize {
		return nil, fmt.Errorf("%w: reply has %d records and %d bytes for %d blocks", sheepdog.ErrInvalid, len(reply.Records), len(reply.Data), req.Count)
	}
	for _, at := range reply.Bad {
		if at < req.Start || uint64(at) >= uint64(req.Start)+uint64(req.Count) {
			return nil, fmt.Errorf("%w: reply calls block %d bad, asked for %d to %d", sheepdog.ErrInvalid, at, req.Start, uint64(req.Start)+uint64(req.Count))
		}
	}
	return reply, nil
}

// repairs turns fetched blocks into repair writes, neighbours of one stamp and
// state together. Absent blocks are nothing to write.
func repairs(req *sheepdog.FetchRequest, reply *sheepdog.FetchReply) []*sheepdog.WriteRequest {
	var out []*sheepdog.WriteRequest
	for i := 0; i < len(reply.Records); {
		rec, j := reply.Records[i], i+1
		for j < len(reply.Records) && reply.Records[j].Stamp == rec.Stamp && reply.Records[j].State == rec.State {
			j++
		}
		if rec.State != sheepdog.Absent {
			w := &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: req.Revision}, Policy: req.Policy, Object: req.Object, Layer: req.Layer,
				Start: req.Start + sheepdog.BlockNo(i), Count: uint32(j - i), Stamp: rec.Stamp, Repair: true}
			if rec.State == sheepdog.Data {
				w.Data = reply.Data[i*sheepdog.BlockSize : j*sheepdog.BlockSize]
				w.Sums = sums(reply.Records[i:j])
			}
			out = append(out, w)
		}
		i = j
	}
	return out
}

// sums are the checksums of blocks with data. What was spoiled since they were verified
// does not get a checksum that says it is right.
func sums(recs []sheepdog.Record) []uint32 {
	out := make([]uint32, len(recs))
	for i, rec := range recs {
		out[i] = rec.CRC
	}
	return out
}

// writeAll writes a batch and returns when every request is answered.
func (a *Agent) writeAll(ctx context.Context, to sheepdog.Replica, reqs []*sheepdog.WriteRequest) error {
	if len(reqs) == 0 {
		return nil
	}
	answers := make(chan error, len(reqs))
	to.Write(ctx, reqs, func(_ int, err error) { answers <- err })
	var first error
	for range reqs {
		if err := <-answers; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// catchUp waits until the source has every block that was ahead here. If the
// source has promised a newer token than the block's, it will never accept that
// write: then nobody has acknowledged it, and the source's block replaces it.
func (b *backfill) catchUp(ctx context.Context, obj sheepdog.ObjectID, layer sheepdog.LayerID, left []ahead) error {
	req := b.place(obj, layer)
	wait := aheadWait
	for range aheadLooks {
		var next []ahead
		distrusted := false
		for _, a := range left {
			req.Start, req.Count = a.block, 1
			outcome, err := b.lookAhead(ctx, req, a)
			if err != nil {
				return err
			}
			if outcome == stillAhead {
				next = append(next, a)
			}
			distrusted = distrusted || outcome == neverComes
		}
		if distrusted {
			return errRestart
		}
		if left = next; len(left) == 0 {
			return nil
		}
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
		wait *= 2
	}
	if b.cfg.Hooks.Settle != nil {
		b.cfg.Hooks.Settle(obj.Family)
	}
	return fmt.Errorf("block %d: %w: stamp %d.%d", left[0].block, errAhead, left[0].stamp.Token, left[0].stamp.Seq)
}

// What became of a block that was ahead.
type outcome uint8

const (
	stillAhead outcome = iota
	arrived            // the source has it, or something newer
	neverComes         // the source refuses it; the block here is not trusted any more
)

// lookAhead looks at one block that was ahead. The token is tried first and the
// record read after: once fenced, the source's record stays below the stamp.
func (b *backfill) lookAhead(ctx context.Context, req sheepdog.FetchRequest, a ahead) (outcome, error) {
	probe := req
	probe.Token = a.stamp.Token
	reply, err := b.fetch(ctx, b.source, &probe)
	fenced := errors.Is(err, sheepdog.ErrFenced)
	if fenced {
		reply, err = b.fetch(ctx, b.source, &req)
	}
	switch {
	case err != nil:
		return stillAhead, err
	case !reply.Records[0].Stamp.Less(a.stamp):
		return arrived, nil
	case !fenced:
		return stillAhead, nil
	}
	return neverComes, b.cfg.Local.Distrust(&req, a.stamp)
}
