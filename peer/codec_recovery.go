package peer

import "sheepdog"

const (
	maxListed = 65536
	entrySize = 28

	fetchWithData = 1
	fetchVerify   = 2
	fetchMayBeRaw = 4
	fetchFlags    = fetchWithData | fetchVerify | fetchMayBeRaw
)

func checkList(r *sheepdog.ListRequest) error {
	if r.Limit < 1 || r.Limit > maxListed {
		return invalid("list: limit %d: want 1 to %d", r.Limit, maxListed)
	}
	for i := 1; i < len(r.Partitions); i++ {
		if r.Partitions[i-1] >= r.Partitions[i] {
			return invalid("list: partitions are not ascending")
		}
	}
	return nil
}

// appendList encodes a list request.
//
//	0          8       16       17       18      26      54      58  62
//	| revision | token | copies | parity | layer | after | limit | n | n times: partition (2) |
func appendList(b []byte, r *sheepdog.ListRequest) []byte {
	b = appendPolicy(appendFence(b, r.Fence), r.Policy)
	b = be.AppendUint64(b, uint64(r.Layer))
	b = appendEntry(b, r.After)
	b = be.AppendUint32(b, uint32(r.Limit))
	b = be.AppendUint32(b, uint32(len(r.Partitions)))
	for _, p := range r.Partitions {
		b = be.AppendUint16(b, uint16(p))
	}
	return b
}

func decodeList(meta []byte) (*sheepdog.ListRequest, error) {
	c := cursor{b: meta}
	r := &sheepdog.ListRequest{
		Fence: c.fence(), Policy: c.policy(), Layer: sheepdog.LayerID(c.u64()), After: c.entry(), Limit: int(c.u32()),
	}
	if n := c.count(2); n > 0 {
		r.Partitions = make([]sheepdog.Partition, n)
	}
	for i := range r.Partitions {
		r.Partitions[i] = sheepdog.Partition(c.u16())
	}
	if err := c.end("list"); err != nil {
		return nil, err
	}
	return r, checkList(r)
}

// appendEntry encodes an entry of a list.
//
//	0        8       12      20       28
//	| family | index | layer | digest |
func appendEntry(b []byte, e sheepdog.ListEntry) []byte {
	b = be.AppendUint64(appendObject(b, e.Object), uint64(e.Layer))
	return be.AppendUint64(b, e.Digest)
}

func (c *cursor) entry() sheepdog.ListEntry {
	return sheepdog.ListEntry{Object: c.object(), Layer: sheepdog.LayerID(c.u64()), Digest: c.u64()}
}

// appendListReply encodes a page.
//
//	0      1   5
//	| more | n | n entries |
func appendListReply(b []byte, r *sheepdog.ListReply) []byte {
	b = append(b, boolByte(r.More))
	b = be.AppendUint32(b, uint32(len(r.Entries)))
	for _, e := range r.Entries {
		b = appendEntry(b, e)
	}
	return b
}

func decodeListReply(meta []byte) (*sheepdog.ListReply, error) {
	c := cursor{b: meta}
	more := c.u8()
	r := &sheepdog.ListReply{More: more == 1}
	n := c.count(entrySize)
	if more > 1 || n > maxListed {
		return nil, invalid("list reply: %d entries, more %d", n, more)
	}
	if n > 0 {
		r.Entries = make([]sheepdog.ListEntry, n)
	}
	for i := range r.Entries {
		r.Entries[i] = c.entry()
	}
	return r, c.end("list reply")
}

func fetchSpan(r *sheepdog.FetchRequest) span {
	return span{fence: r.Fence, object: r.Object, layer: r.Layer, start: r.Start, count: r.Count, policy: r.Policy}
}

// fetchLimit is how many blocks one fetch may ask for.
func fetchLimit(withData bool) uint32 {
	if withData {
		return maxBlocks
	}
	return maxSpan
}

// appendFetch encodes a fetch: a span and one byte of flags.
func appendFetch(b []byte, r *sheepdog.FetchRequest) []byte {
	b = appendSpan(b, fetchSpan(r))
	var flags byte
	if r.WithData {
		flags |= fetchWithData
	}
	if r.Verify {
		flags |= fetchVerify
	}
	if r.MayBeRaw {
		flags |= fetchMayBeRaw
	}
	return append(b, flags)
}

func decodeFetch(meta []byte) (*sheepdog.FetchRequest, error) {
	c := cursor{b: meta}
	s := c.span()
	flags := c.u8()
	r := &sheepdog.FetchRequest{
		Fence: s.fence, Policy: s.policy, Object: s.object, Layer: s.layer, Start: s.start, Count: s.count,
		WithData: flags&fetchWithData != 0, Verify: flags&fetchVerify != 0,
		MayBeRaw: flags&fetchMayBeRaw != 0,
	}
	if err := c.end("fetch"); err != nil {
		return nil, err
	}
	if flags&^fetchFlags != 0 {
		return nil, invalid("fetch: unknown flags %#x", flags)
	}
	return r, s.check(fetchLimit(r.WithData))
}

// checkFetchReply refuses a handler's answer that does not fit its request.
func checkFetchReply(req *sheepdog.FetchRequest, r *sheepdog.FetchReply) error {
	if len(r.Records) != int(req.Count) || len(r.Bad) > int(req.Count) {
		return invalid("fetch reply: %d records, %d bad for %d blocks", len(r.Records), len(r.Bad), req.Count)
	}
	if r.Raw && !(req.WithData && req.MayBeRaw) {
		return invalid("fetch reply: raw, where that was not asked for")
	}
	if req.WithData && len(r.Data) != int(req.Count)*sheepdog.BlockSize {
		return invalid("fetch reply: %d bytes for %d blocks", len(r.Data), req.Count)
	}
	return nil
}

// appendFetchReply encodes records as runs of one state and stamp; CRCs cross
// only for blocks with data. The data of blocks in state Data follow as the
// data of the frame if they were asked for.
//
//	0   4                     4+4n
//	| n | n times: bad block  | state | blocks (4) | token | seq | per block with data: CRC (4) | ...
func appendFetchReply(b []byte, r *sheepdog.FetchReply) []byte {
	b = be.AppendUint32(b, uint32(len(r.Bad)))
	for _, n := range r.Bad {
		b = be.AppendUint32(b, uint32(n))
	}
	for i := 0; i < len(r.Records); {
		n := recordRun(r.Records[i:])
		b = append(b, byte(r.Records[i].State))
		b = be.AppendUint32(b, uint32(n))
		b = appendStamp(b, r.Records[i].Stamp)
		if r.Records[i].State == sheepdog.Data {
			for _, rec := range r.Records[i : i+n] {
				b = be.AppendUint32(b, rec.CRC)
			}
		}
		i += n
	}
	return b
}

func recordRun(recs []sheepdog.Record) int {
	n := 1
	for n < len(recs) && recs[n].State == recs[0].State && recs[n].Stamp == recs[0].Stamp {
		n++
	}
	return n
}

// decodeFetchReply reads the answer to a fetch of count blocks, without data.
func decodeFetchReply(meta []byte, count uint32) (*sheepdog.FetchReply, error) {
	c := cursor{b: meta}
	bad := c.count(4)
	if bad > int(count) {
		return nil, invalid("fetch reply: %d bad of %d blocks", bad, count)
	}
	r := &sheepdog.FetchReply{Records: make([]sheepdog.Record, 0, count)}
	for range bad {
		r.Bad = append(r.Bad, sheepdog.BlockNo(c.u32()))
	}
	for len(r.Records) < int(count) {
		if err := c.recordRun(r, int(count)); err != nil {
			return nil, err
		}
	}
	return r, c.end("fetch reply")
}

func (c *cursor) recordRun(r *sheepdog.FetchReply, count int) error {
	rec := sheepdog.Record{State: sheepdog.BlockState(c.u8())}
	n := uint64(c.u32())
	rec.Stamp = c.stamp()
	if c.bad || rec.State > sheepdog.Data || n == 0 || n > uint64(count-len(r.Records)) {
		return invalid("fetch reply: bad run at block %d", len(r.Records))
	}
	for range n {
		if rec.State == sheepdog.Data {
			rec.CRC = c.u32()
		}
		r.Records = append(r.Records, rec)
	}
	return nil
}

// recordStates are the states of records, as dataRanges wants them.
func recordStates(recs []sheepdog.Record) []sheepdog.BlockState {
	states := make([]sheepdog.BlockState, len(recs))
	for i, rec := range recs {
		states[i] = rec.State
	}
	return states
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
