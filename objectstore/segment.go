package objectstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"sheepdog"
)

// segment is one file of the log.
type segment struct {
	no    int
	f     file
	dirty atomic.Bool
	gen   generation
	last  lsn                          // of a sealed segment: its last entry
	used  map[sheepdog.FamilyID]uint64 // guarded by shares.mu
}

// segmentAhead is after which part of a segment the next one is made: soon, because a
// busy disk takes its time, and all writers would wait for it.
const segmentAhead = 8

func segmentName(dir string, no int) string { return filepath.Join(dir, fmt.Sprintf("log.%06d", no)) }

// makeAhead makes the segment that the next rotation will want, if there is none.
// If it cannot, whoever needs one tries again and tells.
func (j *journal) makeAhead() {
	j.mu.Lock()
	defer j.mu.Unlock()
	const spare = 2 // one to take, and the one that stays; see takeFree
	if !j.making && j.failure == nil && len(j.free) < spare && j.made < j.maxSegs {
		_ = j.makeSegment()
	}
}

// makeSegment makes a file and fills it with zeros, so that later appends need
// no allocation, and adds it to the free ones. The caller holds mu, which it
// gives up meanwhile, and has seen that nobody else makes one.
func (j *journal) makeSegment() error {
	no := j.made
	j.made++
	j.making = true
	j.mu.Unlock()
	f, err := createSegment(j.fs, j.dir, no, int64(j.segLen)*blockSize)
	j.mu.Lock()
	j.making = false
	j.cond.Broadcast()
	if err != nil {
		j.made--
		return err
	}
	j.free = append(j.free, &segment{no: no, f: f})
	return nil
}

func createSegment(fs fileSystem, dir string, no int, size int64) (file, error) {
	name := segmentName(dir, no)
	f, err := fs.Open(name)
	if err != nil {
		return nil, diskError("make a log segment", err)
	}
	err = writeZeros(f, 0, size)
	if err == nil {
		err = errors.Join(f.Sync(), fs.SyncDir(dir))
	}
	if err != nil {
		return nil, errors.Join(diskError("make a log segment", err), f.Close(), fs.Remove(name))
	}
	return f, nil
}

// reserver is a file whose space can be had as a whole.
type reserver interface {
	// Reserve gives the first n bytes their space, and reads as zeros what was not
	// written. It does nothing where the file system cannot.
	Reserve(n int64) error
}

// zeroPiece is how many zeros are written at once, in bytes, and so, where the host can,
// in how large pieces it has the log in memory. With one page each every later append
// and its write-back cost more; with much larger ones an append looks at too many blocks.
const zeroPiece = 64 << 10

// writeZeros writes zeros to a file between two offsets, through the host's memory.
func writeZeros(f file, from, to int64) error {
	if r, ok := f.(reserver); ok {
		if err := r.Reserve(to); err != nil {
			return err
		}
	}
	zeros := make([]byte, zeroPiece)
	for off := from; off < to; {
		n := min(zeroPiece-off%zeroPiece, to-off)
		if _, err := f.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off += n
	}
	return nil
}
