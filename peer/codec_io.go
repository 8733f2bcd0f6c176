package peer

import (
	"sheepdog"
)

// maxBlocks is how many blocks with data one request may carry; maxSpan how
// many blocks the largest object has.
const (
	maxBlocks = sheepdog.MaxTransfer / sheepdog.BlockSize
	maxSpan   = 1 << (sheepdog.MaxBlockSizeShift - 12)
)

const (
	writeHasData = 1 << iota
	writeRepair
)

// span is what write, read and fetch begin with:
//
//	0          8       16       24      28     36      40      44       45      46
//	| revision | token | family | index | layer | start | count | copies | parity |
type span struct {
	fence  sheepdog.Fence
	object sheepdog.ObjectID
	layer  sheepdog.LayerID
	start  sheepdog.BlockNo
	count  uint32
	policy sheepdog.Policy
}

func appendSpan(b []byte, s span) []byte {
	b = appendObject(appendFence(b, s.fence), s.object)
	b = be.AppendUint64(b, uint64(s.layer))
	b = be.AppendUint32(b, uint32(s.start))
	b = be.AppendUint32(b, s.count)
	return appendPolicy(b, s.policy)
}

func (c *cursor) span() span {
	return span{
		fence: c.fence(), object: c.object(), layer: sheepdog.LayerID(c.u64()),
		start: sheepdog.BlockNo(c.u32()), count: c.u32(), policy: c.policy(),
	}
}

// check refuses a span of no blocks, of more than limit, or beyond the largest
// object.
func (s span) check(limit uint32) error {
	if s.count == 0 || s.count > limit {
		return invalid("object %s: %d blocks: want 1 to %d", s.object, s.count, limit)
	}
	if uint64(s.start)+uint64(s.count) > maxSpan {
		return invalid("object %s: blocks %d+%d lie beyond the largest object", s.object, s.start, s.count)
	}
	return nil
}

func writeSpan(r *sheepdog.WriteRequest) span {
	return span{fence: r.Fence, object: r.Object, layer: r.Layer, start: r.Start, count: r.Count, policy: r.Policy}
}

// checkWrite refuses what appendWrite cannot carry.
func checkWrite(r *sheepdog.WriteRequest) error {
	if r.Data == nil {
		return writeSpan(r).check(maxSpan)
	}
	if err := writeSpan(r).check(maxBlocks); err != nil {
		return err
	}
	if uint64(len(r.Data)) != uint64(r.Count)*sheepdog.BlockSize {
		return invalid("write of object %s: %d bytes for %d blocks", r.Object, len(r.Data), r.Count)
	}
	return nil
}

// writeSize is how many bytes putWrite makes.
const writeSize = 95

// putWrite encodes a write at the start of b; its data follow as the data of the frame.
//
//	0      46      47            55          63               71              79          87        95
//	| span | flags | stamp token | stamp seq | origin gateway | origin request | originDone | flushed |
func putWrite(b []byte, r *sheepdog.WriteRequest) {
	b = b[:writeSize]
	be.PutUint64(b, uint64(r.Revision))
	be.PutUint64(b[8:], uint64(r.Token))
	be.PutUint64(b[16:], uint64(r.Object.Family))
	be.PutUint32(b[24:], uint32(r.Object.Index))
	be.PutUint64(b[28:], uint64(r.Layer))
	be.PutUint32(b[36:], uint32(r.Start))
	be.PutUint32(b[40:], r.Count)
	b[44], b[45] = r.Policy.Copies, r.Policy.Parity
	var flags byte
	if r.Data != nil {
		flags |= writeHasData
	}
	if r.Repair {
		flags |= writeRepair
	}
	b[46] = flags
	be.PutUint64(b[47:], uint64(r.Stamp.Token))
	be.PutUint64(b[55:], r.Stamp.Seq)
	be.PutUint64(b[63:], uint64(r.Origin.Gateway))
	be.PutUint64(b[71:], r.Origin.Request)
	be.PutUint64(b[79:], r.OriginDone)
	be.PutUint64(b[87:], r.Flushed)
}

// decodeWrite fills r; r.Data is a part of data.
func decodeWrite(meta, data []byte, r *sheepdog.WriteRequest) error {
	if len(meta) != writeSize {
		return invalid("write: %w", errShort)
	}
	b := (*[writeSize]byte)(meta)
	r.Revision, r.Token = sheepdog.Revision(be.Uint64(b[:])), sheepdog.Token(be.Uint64(b[8:]))
	r.Object = sheepdog.ObjectID{Family: sheepdog.FamilyID(be.Uint64(b[16:])), Index: sheepdog.Index(be.Uint32(b[24:]))}
	r.Layer = sheepdog.LayerID(be.Uint64(b[28:]))
	r.Start, r.Count = sheepdog.BlockNo(be.Uint32(b[36:])), be.Uint32(b[40:])
	r.Policy = sheepdog.Policy{Copies: b[44], Parity: b[45]}
	flags := b[46]
	r.Stamp = sheepdog.Stamp{Token: sheepdog.Token(be.Uint64(b[47:])), Seq: be.Uint64(b[55:])}
	r.Origin = sheepdog.Origin{Gateway: sheepdog.Incarnation(be.Uint64(b[63:])), Request: be.Uint64(b[71:])}
	r.OriginDone, r.Flushed = be.Uint64(b[79:]), be.Uint64(b[87:])
	r.Repair, r.Data, r.Sums = flags&writeRepair != 0, nil, nil
	if flags&^(writeHasData|writeRepair) != 0 {
		return invalid("write: unknown flags %#x", flags)
	}
	if flags&writeHasData != 0 {
		r.Data = data[:len(data):len(data)]
	} else if len(data) != 0 {
		return invalid("write of zeros with %d bytes", len(data))
	}
	if r.Data != nil && r.Count == 1 && len(r.Data) == sheepdog.BlockSize && r.Start < maxSpan { // mostly
		return nil
	}
	return checkWrite(r)
}

func readSpan(r *sheepdog.ReadRequest) span {
	return span{fence: r.Fence, object: r.Object, layer: r.Layer, start: r.Start, count: r.Count, policy: r.Policy}
}

// checkRead refuses a request whose buffers do not fit its blocks.
func checkRead(r *sheepdog.ReadRequest) error {
	if err := readSpan(r).check(maxBlocks); err != nil {
		return err
	}
	if len(r.Buf) != int(r.Count)*sheepdog.BlockSize || len(r.States) != int(r.Count) {
		return invalid("read of object %s: %d bytes and %d states for %d blocks", r.Object, len(r.Buf), len(r.States), r.Count)
	}
	return nil
}

// appendRead encodes a read: a span.
func appendRead(b []byte, r *sheepdog.ReadRequest) []byte { return appendSpan(b, readSpan(r)) }

// decodeRead fills all of r but its buffers.
func decodeRead(meta []byte, r *sheepdog.ReadRequest) error {
	c := cursor{b: meta}
	s := c.span()
	*r = sheepdog.ReadRequest{Fence: s.fence, Policy: s.policy, Object: s.object, Layer: s.layer, Start: s.start, Count: s.count}
	if err := c.end("read"); err != nil {
		return err
	}
	return s.check(maxBlocks)
}

// appendStates encodes block states as runs; they end where the request does.
// The data of the blocks in state Data follow as the data of the frame.
//
//	0       1         5
//	| state | blocks  | ...
func appendStates(b []byte, states []sheepdog.BlockState) []byte {
	for i := 0; i < len(states); {
		n := runLength(states[i:])
		b = append(b, byte(states[i]))
		b = be.AppendUint32(b, uint32(n))
		i += n
	}
	return b
}

func runLength(states []sheepdog.BlockState) int {
	n := 1
	for n < len(states) && states[n] == states[0] {
		n++
	}
	return n
}

// decodeStates fills states from runs that must cover it exactly.
func decodeStates(meta []byte, states []sheepdog.BlockState) error {
	c := cursor{b: meta}
	for at := 0; at < len(states); {
		state, n := sheepdog.BlockState(c.u8()), uint64(c.u32())
		if c.bad || state > sheepdog.Data || n == 0 || n > uint64(len(states)-at) {
			return invalid("states: bad run at block %d", at)
		}
		for i := range states[at : at+int(n)] {
			states[at+i] = state
		}
		at += int(n)
	}
	return c.end("states")
}

// dataRanges appends to dst the parts of buf that hold blocks in state Data,
// which are what crosses the wire, and tells their length in bytes.
func dataRanges(dst [][]byte, states []sheepdog.BlockState, buf []byte) ([][]byte, int) {
	total := 0
	for i := 0; i < len(states); {
		n := runLength(states[i:])
		if states[i] == sheepdog.Data {
			part := buf[i*sheepdog.BlockSize : (i+n)*sheepdog.BlockSize]
			dst, total = append(dst, part), total+len(part)
		}
		i += n
	}
	return dst, total
}

// clearGaps zeroes the parts of buf that hold no data.
func clearGaps(states []sheepdog.BlockState, buf []byte) {
	for i, s := range states {
		if s != sheepdog.Data {
			clear(buf[i*sheepdog.BlockSize : (i+1)*sheepdog.BlockSize])
		}
	}
}
