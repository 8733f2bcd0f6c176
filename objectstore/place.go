package objectstore

import (
	"fmt"

	"sheepdog"
)

// place is where the bytes of a block are. It is on disk in chunks and log
// records. Zero means nowhere: block 0 of an extent file is its header.
//
//	extent: 0 | disk(15) | block(48)       block: of the disk's extent files, end to end
//	log:    1 | generation(47) | block(16) block: of the log segment
//
// Log places are never in the metadata store: destaging replaces them.
type place uint64

const (
	placeLog       place = 1 << 63
	extentBits           = 48
	segmentBits          = 16
	maxGeneration        = 1<<47 - 1
	maxDisks             = 1<<15 - 1
	maxExtentBlock       = 1<<extentBits - 1
)

type diskID uint16

// generation numbers the laps of log segments; it never falls or repeats.
type generation uint64

func extentPlace(d diskID, block uint64) place { return place(d)<<extentBits | place(block) }

func logPlace(g generation, block uint32) place {
	return placeLog | place(g)<<segmentBits | place(block)
}

func (p place) inLog() bool            { return p&placeLog != 0 }
func (p place) isExtent() bool         { return p != 0 && !p.inLog() }
func (p place) disk() diskID           { return diskID(p >> extentBits) }
func (p place) block() uint64          { return uint64(p) & maxExtentBlock }
func (p place) generation() generation { return generation(p>>segmentBits) & maxGeneration }
func (p place) segmentBlock() uint32   { return uint32(p) & (1<<segmentBits - 1) }

// segmentOffset is where a log place is in its segment, in bytes.
func (p place) segmentOffset() int64 { return int64(p.segmentBlock()) * blockSize }

// follows reports whether p is the block after q on the same medium.
func (p place) follows(q place) bool { return p == q+1 && q != 0 }

func (p place) String() string {
	if p.inLog() {
		return fmt.Sprintf("log %d block %d", p.generation(), p.segmentBlock())
	}
	return fmt.Sprintf("disk %d block %d", p.disk(), p.block())
}

// run is a number of blocks in a row.
type run struct {
	at place
	n  uint32
}

// appendPlace adds one block to runs, joining it to the last one if it can.
func appendPlace(runs []run, p place) []run {
	if n := len(runs); n > 0 && p == runs[n-1].at+place(runs[n-1].n) {
		runs[n-1].n++
		return runs
	}
	return append(runs, run{p, 1})
}

// lsn numbers the changes of a store in the order in which they are applied.
// An unfinished store never repeats one.
type lsn uint64

// LargeWrite is the size in bytes from which data go straight to an extent.
const LargeWrite = 64 << 10

const blockSize = sheepdog.BlockSize
