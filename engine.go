package sheepdog

import "context"

// Op is one write as an Engine sees it: whole blocks of one object in one
// layer.
type Op struct {
	Object ObjectID
	Layer  LayerID
	Start  BlockNo
	Count  uint32
	Data   []byte // Count*BlockSize bytes; nil writes zeros
	Stamp  Stamp
	// Force applies the blocks whatever stamp they hold; without it a block is
	// left alone unless Stamp is higher than the one it holds.
	Force bool
	// Unread says that nobody is expected to read the blocks soon: they need not be
	// in the host's memory afterwards.
	Unread bool
	// Sums are the CRC-32C of each block of Data, nil if the caller does not know
	// them. They are believed: a block that does not match its sum is bad to whoever
	// reads it.
	Sums []uint32
}

// Engine keeps the replicas of one node: for every (object, layer) a record per
// block. It knows nothing of views, tokens or other nodes. All methods are safe
// for concurrent use. A chain is a list of layers of the object's family,
// newest first: the first layer in which a block is not Absent decides.
type Engine interface {
	// Write applies ops in order and puts the outcome of op i into errs[i], which
	// must have len(ops) entries. Blocks of one op become visible together. When
	// it returns, what was applied survives the death of the process, not the
	// loss of power. The data are not kept after it returns.
	Write(ops []Op, errs []error)
	// Read fills buf (count*BlockSize bytes; zeros where not Data) and states
	// (count entries). Every block is verified; if some are bad the error is a
	// *BadBlocksError, which wraps ErrChecksum, and the other blocks are filled.
	Read(obj ObjectID, chain []LayerID, start BlockNo, count uint32, buf []byte, states []BlockState) error
	// Records fills recs (count entries) without reading data.
	Records(obj ObjectID, chain []LayerID, start BlockNo, count uint32, recs []Record) error
	// Flush makes everything that Write applied before the call durable.
	// Concurrent calls share the work.
	Flush() error
	// List visits objects in ascending (partition, family, index, layer) order,
	// starting after the entry `after` (zero: from the start), until visit
	// returns false. Only partitions for which want is true are visited; a nil
	// want means all.
	List(after ListEntry, want func(Partition) bool, visit func(ListEntry) bool) error
	// LayerObjects lists the indexes that a layer holds, ascending: from the given
	// one on, at most limit of them; all if limit is 0.
	LayerObjects(layer LayerID, from Index, limit int) ([]Index, error)
	Maintainer
}

// Maintainer is the housekeeping side of an Engine.
type Maintainer interface {
	// Layers lists every layer that holds anything, with its family.
	Layers() (map[LayerID]FamilyID, error)
	// DropLayer forgets a layer; DropObject one object of it. The space comes
	// back once the change is durable. Idempotent; safe to repeat after a crash.
	DropLayer(layer LayerID) error
	DropObject(obj ObjectID, layer LayerID) error
	// Merge moves the blocks of layer from into layer to where to has none, and
	// forgets from. No data are copied. Idempotent, atomic per object.
	Merge(from, to LayerID) error
	// Usage tells the space of the store.
	Usage() (Usage, error)
	// Get and Put keep small durable facts of the node (identity, cluster id) by
	// name. Put is durable when it returns. Get of a missing name returns nil.
	Get(name string) ([]byte, error)
	Put(name string, value []byte) error
	// Wipe forgets all replicas, durably, and keeps the named facts.
	Wipe() error
	Close() error
}

// Usage is the space of a store in bytes. Used is what live blocks and their
// overhead take; Free is what the file system could still give to it.
type Usage struct {
	Used uint64
	Free uint64
}

// BadBlocksError says which blocks of a read failed their checksum.
type BadBlocksError struct {
	Object ObjectID
	Blocks []BlockNo
}

func (e *BadBlocksError) Error() string {
	return "object " + e.Object.String() + ": " + ErrChecksum.Error()
}

func (e *BadBlocksError) Unwrap() error { return ErrChecksum }

// PromptEngine is an Engine that can read what is at hand
// without waiting.
type PromptEngine interface {
	// TryRead is Read if that waits for no disk; else it returns false, also where
	// Read would return an error, and buf and states hold anything.
	TryRead(obj ObjectID, chain []LayerID, start BlockNo, count uint32, buf []byte, states []BlockState) bool
}

// RawEngine is an Engine that can read without verifying, for those who verify
// themselves.
type RawEngine interface {
	// ReadRaw is Read with the records of the blocks, of count entries, in place of
	// their states. The bytes of a block in state Data match the CRC of its record
	// unless the disk has spoiled them or does not give them.
	ReadRaw(obj ObjectID, chain []LayerID, start BlockNo, count uint32, buf []byte, recs []Record) error
}

// PacedEngine is an Engine that can fall behind its writers, and tells those who
// write most before all have to wait.
type PacedEngine interface {
	// Crowded reports whether writes of the family are to wait, because the engine
	// is behind and this family has at least an even share in that.
	Crowded(f FamilyID) bool
	// AwaitRoom waits, while that is so, for as long as one call of Write is to wait,
	// or until ctx ends.
	AwaitRoom(ctx context.Context, f FamilyID)
}

// ServingEngine is an Engine that keeps in the host's memory what is used here, and
// leaves out what is only wanted when another node is lost.
type ServingEngine interface {
	// Serving notes that clients read the family here, or write to it through this node.
	// It costs next to nothing. What recovery and checks read does not count.
	Serving(f FamilyID)
}

// DirectEngine is an Engine that can write what is Unread past the host's memory. Write
// waits for the disk then, in the caller's goroutine, and needs none of the scheduler's
// processors for that.
type DirectEngine interface {
	// Directly reports whether n bytes in a row of the family, if they are Unread, are
	// written so: they are many, and the family is not served here.
	Directly(f FamilyID, n int) bool
}

// SpoiledEngine is an Engine that knows of objects of which it cannot tell any more what
// they hold, so that nothing short of all of one can be replaced.
type SpoiledEngine interface {
	// Spoiled lists them, in no order, and returns a channel that is closed when there is
	// another one. What is read or written of them fails with ErrIO, and List tells another
	// digest each time, until they are dropped; then they are not listed any more.
	Spoiled() ([]ListEntry, <-chan struct{})
}

// PromptReplica is a Replica that may have what a read wants at hand.
type PromptReplica interface {
	// TryRead is Read if that waits for nothing; else, and where Read would fail, it
	// returns false, and the request's buffers hold anything.
	TryRead(r *ReadRequest) bool
}
