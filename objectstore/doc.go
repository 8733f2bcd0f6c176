// Package objectstore keeps the replicas of one node. Disk is the engine that
// nodes run: data in extent files, written out of place; a preallocated log in
// front of them that carries small writes and every map change; and all
// metadata in a key-value store that is only touched when the log is destaged.
// Memory is the same engine without disks, for tests. Both are a
// sheepdog.Engine and pass the suite in objectstore/storetest.
//
// The package knows nothing of views, tokens, placement over nodes or other
// nodes; it orders writes only by the stamps that come with them.
//
// # How a write travels
//
// Write loads the maps that it needs, computes checksums, and puts data of
// LargeWrite bytes or more into extents. Then it queues for the commit role,
// which one of the waiting callers holds at a time: the holder joins everything
// queued into one log record, appends it with one write, and only then changes
// the maps in memory. A dead process loses nothing: Open replays the log.
// Flush makes the log and the extents written since durable.
//
// When half of the log is in use, when much space waits to be freed or when the
// maps hold many changes, the destager moves what is live in the log into
// extents, sorted; makes the extents durable; commits the maps; and only then
// lets log segments and the extents that were replaced be used again.
//
// # Words
//
// A pile is all that the store holds of one ObjectID: an object for each layer.
// An object's map is cut into chunks of chunkBlocks records; one of few blocks is kept
// with the header of the object. A place is where a block's bytes are: in the log or in
// an extent file. Every change has a serial number (LSN); a chunk remembers the last one
// applied to it, which makes replay exact whatever part of a destage had reached the disk.
package objectstore
