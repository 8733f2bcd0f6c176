package peer

import "sheepdog"

// appendFlush encodes a flush.
//
//	0          8       16       24        32
//	| revision | token | family | flushed |
func appendFlush(b []byte, r *sheepdog.FlushRequest) []byte {
	b = be.AppendUint64(appendFence(b, r.Fence), uint64(r.Family))
	return be.AppendUint64(b, r.Flushed)
}

func decodeFlush(meta []byte) (*sheepdog.FlushRequest, error) {
	c := cursor{b: meta}
	r := &sheepdog.FlushRequest{Fence: c.fence(), Family: sheepdog.FamilyID(c.u64()), Flushed: c.u64()}
	return r, c.end("flush")
}

// appendSeal encodes a seal.
//
//	0          8       16       24
//	| revision | token | family |
func appendSeal(b []byte, r *sheepdog.SealRequest) []byte {
	return be.AppendUint64(appendFence(b, r.Fence), uint64(r.Family))
}

func decodeSeal(meta []byte) (*sheepdog.SealRequest, error) {
	c := cursor{b: meta}
	r := &sheepdog.SealRequest{Fence: c.fence(), Family: sheepdog.FamilyID(c.u64())}
	return r, c.end("seal")
}

const (
	dirtySize  = 44
	originSize = 16
)

// appendSealReply encodes what is dirty. It may exceed a frame: it is sent in
// parts.
//
//	0   4                                                        4+44n
//	| n | n times: family, index, layer, start, count, token, seq | m | m times: gateway, request |
//
// A run of 0 blocks names a family of which something is remembered.
func appendSealReply(b []byte, r *sheepdog.SealReply) []byte {
	b = be.AppendUint32(b, uint32(len(r.Dirty)))
	for i := range r.Dirty {
		d := &r.Dirty[i]
		b = be.AppendUint64(appendObject(b, d.Object), uint64(d.Layer))
		b = be.AppendUint32(b, uint32(d.Start))
		b = be.AppendUint32(b, d.Count)
		b = appendStamp(b, d.Stamp)
	}
	b = be.AppendUint32(b, uint32(len(r.Origins)))
	for _, o := range r.Origins {
		b = appendOrigin(b, o)
	}
	return b
}

func decodeSealReply(meta []byte) (*sheepdog.SealReply, error) {
	c := cursor{b: meta}
	r := &sheepdog.SealReply{}
	if n := c.count(dirtySize); n > 0 {
		r.Dirty = make([]sheepdog.DirtyBlocks, n)
	}
	for i := range r.Dirty {
		d := sheepdog.DirtyBlocks{
			Object: c.object(), Layer: sheepdog.LayerID(c.u64()), Start: sheepdog.BlockNo(c.u32()), Count: c.u32(), Stamp: c.stamp(),
		}
		if uint64(d.Start)+uint64(d.Count) > maxSpan {
			return nil, invalid("seal reply: dirty run %d+%d of object %s", d.Start, d.Count, d.Object)
		}
		r.Dirty[i] = d
	}
	if n := c.count(originSize); n > 0 {
		r.Origins = make([]sheepdog.Origin, n)
	}
	for i := range r.Origins {
		r.Origins[i] = c.origin()
	}
	return r, c.end("seal reply")
}
