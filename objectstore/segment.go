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
	err = writeZeros(fs, name, f, size)
	if err == nil {
		err = errors.Join(f.Sync(), fs.SyncDir(dir))
	}
	if err != nil {
		return nil, errors.Join(diskError("make a log segment", err), f.Close(), fs.Remove(name))
	}
	return f, nil
}

// zeroFiler is a file system with a cheap way to fill a new file with zeros.
type zeroFiler interface {
	// WriteZeros writes n zeros to the beginning of a file; errors.ErrUnsupported
	// says that it cannot.
	WriteZeros(name string, n int64) error
}

// writeZeros fills the file of that name, which is open as f.
func writeZeros(fs fileSystem, name string, f file, size int64) error {
	if z, ok := fs.(zeroFiler); ok {
		if err := z.WriteZeros(name, size); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	zeros := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
