package sheepdog

import (
	"context"
	"hash/crc32"
)

// BlockState says what a layer, or a chain of layers, knows of a block.
type BlockState uint8

const (
	Absent BlockState = iota // look in the parent or base
	Zero                     // reads as zeros, hides the parent
	Data                     // has bytes
)

// Fence goes with every request to a replica. The replica refuses an older
// revision than its partition's Since, catches up before it answers a newer one
// than its own, and refuses an older token than the highest it promised.
type Fence struct {
	Revision Revision
	Token    Token // of the family's coordinator; 0 where no coordinator is involved
}

// Scope says on behalf of which coordinator, and under which policy, a gateway
// works on the objects of a family. Token 0 stands for no coordinator: reads of
// frozen layers.
type Scope struct {
	Family FamilyID
	Policy Policy
	Token  Token
}

// WriteRequest writes or zeroes whole blocks of one object in one layer.
type WriteRequest struct {
	Fence
	Policy Policy
	Object ObjectID
	Layer  LayerID
	Start  BlockNo
	Count  uint32
	Data   []byte // Count*BlockSize bytes; nil writes zeros
	Stamp  Stamp  // a block is applied only if this is higher than what it holds
	Origin Origin
	// OriginDone: the gateway Origin.Gateway has seen the replies of all its
	// requests below this number; their records may be dropped.
	OriginDone uint64
	// Flushed: every write of this family and token with a lower or equal
	// sequence number is durable on all acting replicas; dirty marks up to it go.
	Flushed uint64
	// Repair marks a write of reconciliation or backfill: it is checked by
	// revision only, is allowed while the partition is unclean, keeps Stamp as
	// recorded and makes no dirty mark.
	Repair bool
	// Sums are those of Op. They do not travel: who receives a write computes them
	// when it verifies the data.
	Sums []uint32
}

// ReadRequest reads blocks of one object as seen from Layer downwards within
// its family. The callee fills Buf and States.
type ReadRequest struct {
	Fence
	Policy Policy
	Object ObjectID
	Layer  LayerID
	Start  BlockNo
	Count  uint32
	// Buf has Count*BlockSize bytes. Data blocks get their bytes, all others zeros.
	Buf []byte
	// States has Count entries.
	States []BlockState
}

// FlushRequest makes what the replica accepted of a family durable.
type FlushRequest struct {
	Fence
	Family  FamilyID
	Flushed uint64 // as in WriteRequest
}

// SealRequest promises the token and revision and asks what is dirty. Token 0
// promises nothing: recovery asks so what it must carry over. With Family 0
// besides, the reply has one run of 0 blocks for every family of which something
// is remembered, with the promised token in its stamp.
type SealRequest struct {
	Fence
	Family FamilyID
}

// DirtyBlocks is a run of blocks written since the last completed flush with
// one stamp.
type DirtyBlocks struct {
	Object ObjectID
	Layer  LayerID
	Start  BlockNo
	Count  uint32
	Stamp  Stamp
}

// SealReply is what one replica knows of a family that a dead coordinator may
// have left unfinished.
type SealReply struct {
	Dirty   []DirtyBlocks
	Origins []Origin // forwarded writes applied here whose reply may be lost
}

// ListRequest asks for the objects that a replica holds, either of a set of
// partitions (for recovery) or of one layer (for the object map).
type ListRequest struct {
	Fence
	Policy     Policy
	Partitions []Partition // ascending; empty: by layer
	Layer      LayerID
	After      ListEntry // exclusive lower bound: the last entry of the page before
	Limit      int       // entries per page, 1 to 65536
}

// ListEntry is one object of one layer. Digest is equal on two replicas if and
// (but for hash collisions of 2^-64) only if they hold the same block states,
// checksums and stamps.
type ListEntry struct {
	Object ObjectID
	Layer  LayerID
	Digest uint64
}

// ListReply is one page; More says that there are entries after the last.
type ListReply struct {
	Entries []ListEntry
	More    bool
}

// Record is what a layer holds of one block.
type Record struct {
	State BlockState
	CRC   uint32 // CRC-32C of the bytes when State is Data
	Stamp Stamp
}

// Holds reports whether the record is of a block with these bytes.
func (r Record) Holds(data []byte) bool {
	return r.State == Data && r.CRC == crc32.Checksum(data, castagnoli)
}

// AppendSums appends the CRC-32C of each block of data, which are whole blocks.
func AppendSums(sums []uint32, data []byte) []uint32 {
	for ; len(data) >= BlockSize; data = data[BlockSize:] {
		sums = append(sums, crc32.Checksum(data[:BlockSize], castagnoli))
	}
	return sums
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// FetchRequest asks for the records (and with WithData the bytes) of one object
// in exactly one layer, for recovery, takeover and scrub.
type FetchRequest struct {
	Fence
	Policy   Policy
	Object   ObjectID
	Layer    LayerID
	Start    BlockNo
	Count    uint32
	WithData bool
	Verify   bool // also read and check the bytes where WithData is false
	// MayBeRaw: the caller takes a reply that is Raw.
	MayBeRaw bool
	// Buf becomes the Data of the reply if it has room for Count blocks; else they
	// are allocated. Nobody uses it after Fetch returned.
	Buf []byte
}

// Room is where the Data of the reply go. It holds anything.
func (r *FetchRequest) Room() []byte {
	n := int(r.Count) * BlockSize
	if cap(r.Buf) >= n {
		return r.Buf[:n:n]
	}
	return make([]byte, n)
}

// FetchReply has Count records; Data has Count*BlockSize bytes if asked for,
// zeros where the state is not Data. Bad lists blocks whose bytes failed their
// checksum: their record is present, their data are zeros.
type FetchReply struct {
	Records []Record
	Data    []byte
	Bad     []BlockNo
	// Raw: nobody has verified Data, neither as they were read nor on their way. Those
	// that match the CRC of their record are good.
	Raw bool
}

// Replica is one node's replicas as a coordinator or a recovering node sees
// them; the local disk, a remote node and every wrapper in tests are one.
// Errors are the sentinels of this package, wrapped.
type Replica interface {
	// Write applies requests in order; done is called once per request, from any
	// goroutine, possibly before Write returns, with its position in reqs. The
	// request and its data must not change until then. After a nil error the
	// write survives the death of the replica's process.
	Write(ctx context.Context, reqs []*WriteRequest, done func(i int, err error))
	Read(ctx context.Context, req *ReadRequest) error
	Flush(ctx context.Context, req *FlushRequest) error
	Seal(ctx context.Context, req *SealRequest) (*SealReply, error)
	List(ctx context.Context, req *ListRequest) (*ListReply, error)
	Fetch(ctx context.Context, req *FetchRequest) (*FetchReply, error)
}

// ForwardOp is what a gateway asks of the coordinator for an attached client.
type ForwardOp uint8

const (
	ForwardRead ForwardOp = iota + 1
	ForwardWrite
	ForwardZero
	ForwardFlush
)

// ForwardRequest is guest I/O sent to the coordinator by another gateway.
// Offsets and lengths are in bytes.
type ForwardRequest struct {
	Family FamilyID
	Token  Token // of the coordinator that the gateway believes in; any other refuses
	Op     ForwardOp
	Offset uint64
	Length uint32
	Data   []byte // of a write
	FUA    bool
	Origin Origin // of writes and zeroes
	// OriginDone as in WriteRequest.
	OriginDone uint64
}

// Forwarder runs forwarded guest I/O; a read's bytes go to buf, which has
// Length bytes.
type Forwarder interface {
	Forward(ctx context.Context, req *ForwardRequest, buf []byte) error
}
