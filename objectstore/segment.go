package objectstore

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// segment is one file of the log. It may be written to before its name and its zeros
// are durable; sync makes that good.
type segment struct {
	no    int
	f     file
	named func() error // makes the name durable, once
	dirty atomic.Bool
	gen   generation
	last  lsn                          // of a sealed segment: its last entry
	used  map[sheepdog.FamilyID]uint64 // guarded by shares.mu

	syncMu sync.Mutex
	lost   error // why a sync failed
}

// sync makes what is in the segment durable. The host tells of what it could not write
// once, to one of those who sync a file: so one does at a time, and after a failure all fail.
func (s *segment) sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if s.lost == nil {
		s.lost = errors.Join(s.named(), s.f.Sync())
	}
	return s.lost
}

// naming is a function that makes all names in the log's directory durable when it is
// called for the first time.
func (j *journal) naming() func() error {
	return sync.OnceValue(func() error { return j.fs.SyncDir(j.dir) })
}

// nameAll makes the names of live segments durable: metadata of a log of which there is
// nothing are taken for those of one that somebody removed.
func (j *journal) nameAll() error {
	if j.noSync {
		return nil
	}
	j.mu.RLock()
	live := slices.Collect(maps.Values(j.live))
	j.mu.RUnlock()
	for _, s := range live {
		if err := s.named(); err != nil {
			return j.fail(diskError("make a log segment", err))
		}
	}
	return nil
}

// segmentAhead is after which part of a segment the next one is made: soon, because a
// busy disk takes its time, and all writers would wait for it.
const segmentAhead = 8

func segmentName(dir string, no int) string { return filepath.Join(dir, fmt.Sprintf("log.%06d", no)) }

// makeAhead makes the segment that the next rotation will want, if there is none, and
// brings what was made to the disk, so that no flush has to.
// If it cannot make one, whoever needs it tries again and tells.
func (j *journal) makeAhead() {
	const spare = 2 // one to take, and the one that stays; see takeFree
	j.makeWhere(func() bool { return len(j.free) < spare })
}

// makeEarly makes a segment while the log has less than so many bytes, and tells whether
// it did. Where there is little space it does not.
func (j *journal) makeEarly(ready int64) bool {
	if j.ahead == nil {
		return false
	}
	if _, free, err := j.fs.Space(j.dir); err != nil || free/earlyPart < uint64(ready) {
		return false
	}
	return j.makeWhere(func() bool { return int64(j.made)*int64(j.segLen)*blockSize < ready })
}

// earlyPart is which part of the free space is made log before anybody needs it, at most.
const earlyPart = 16

// makeWhere makes a segment where want says so, which is asked under mu, and brings all
// that were made to the disk. It tells whether it made one that stays.
func (j *journal) makeWhere(want func() bool) (made bool) {
	j.mu.Lock()
	if !j.making && j.failure == nil && j.made < j.maxSegs && want() {
		made = j.makeSegment() == nil
	}
	raw := j.raw
	j.raw = nil
	if j.failure != nil || j.noSync {
		raw = nil
	}
	j.mu.Unlock()
	for _, s := range raw {
		err := s.sync()
		if err == nil {
			continue
		}
		made = false
		if !j.giveUp(s) {
			_ = j.fail(diskError("sync a new log segment", err))
		}
		break // what was made after it goes with it
	}
	return made
}

// giveUp has a segment removed that could not be brought to the disk, so that another one
// is made in its place; false if it was used, or one that was made after it. What was in it
// could be lost from the host's memory, and no later sync would tell.
func (j *journal) giveUp(s *segment) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s.gen != 0 || !slices.Contains(j.free, s) || j.usedFrom(s.no) {
		return false
	}
	j.unfit = min(j.unfit, s.no)
	j.removeUnfit()
	return true
}

// usedFrom reports whether a segment from a number on is in use or on its way there; one
// that is being made is not. The caller holds mu.
func (j *journal) usedFrom(no int) bool {
	unused := 0
	for _, f := range j.free {
		if f.no >= no && f.gen == 0 {
			unused++
		}
	}
	if j.making {
		unused++
	}
	return unused != j.made-no
}

// removeUnfit removes the segments that were given up, and those that were made after them:
// the names that stay have no gap. It leaves that to whoever is making one. What stays of
// a segment is taken for one that a process died over making. The caller holds mu.
func (j *journal) removeUnfit() {
	if j.making || j.unfit == noneUnfit {
		return
	}
	for _, s := range slices.SortedFunc(slices.Values(j.free), func(a, b *segment) int { return cmp.Compare(b.no, a.no) }) {
		if s.no >= j.unfit {
			_ = j.unmake(s)
		}
	}
	j.unfit = noneUnfit
	j.cond.Broadcast()
}

// noneUnfit is the number of a segment that there is not.
const noneUnfit = math.MaxInt

// unmake removes the segment that was made last. It was not used, or only in an earlier
// life of the store.
func (j *journal) unmake(s *segment) error {
	j.made--
	j.free = slices.DeleteFunc(j.free, func(f *segment) bool { return f == s })
	j.raw = slices.DeleteFunc(j.raw, func(f *segment) bool { return f == s })
	return diskError("remove a log segment", errors.Join(s.f.Close(), j.fs.Remove(segmentName(j.dir, s.no))))
}

// makeSegment makes a file and fills it with zeros, so that later appends need
// no allocation, and adds it to the free ones. The caller holds mu, which it
// gives up meanwhile, and has seen that nobody else makes one.
func (j *journal) makeSegment() error {
	no := j.made
	j.made++
	j.making = true
	j.mu.Unlock()
	f, synced, err := createSegment(j.fs, j.dir, no, int64(j.segLen)*blockSize)
	j.mu.Lock()
	j.making = false
	j.cond.Broadcast()
	defer j.removeUnfit()
	if err != nil {
		j.made--
		return err
	}
	s := &segment{no: no, f: f, named: j.naming()}
	j.free = append(j.free, s)
	if !synced {
		j.raw = append(j.raw, s)
	}
	return nil
}

// createSegment makes the file of a segment, and tells whether its zeros are on the disk.
// They need not be where the file has its space: so writers do not wait for that. But
// elsewhere a sync may find that there is no space, and an append must not.
func createSegment(fs fileSystem, dir string, no int, size int64) (f file, synced bool, err error) {
	name := segmentName(dir, no)
	if f, err = fs.Open(name); err != nil {
		return nil, false, diskError("make a log segment", err)
	}
	reserved, err := writeZeros(f, 0, size)
	if err == nil && !reserved {
		err = f.Sync()
	}
	if err != nil {
		return nil, false, errors.Join(diskError("make a log segment", err), f.Close(), fs.Remove(name))
	}
	return f, !reserved, nil
}

// reserver is a file whose space can be had as a whole.
type reserver interface {
	// Reserve gives the first n bytes their space, and reads as zeros what was not
	// written. It is false, and nothing is done, where the file system cannot.
	Reserve(n int64) (bool, error)
}

// zeroPiece is how many zeros are written at once, in bytes, and so, where the host can,
// in how large pieces it has the log in memory. With one page each every later append
// and its write-back cost more; with much larger ones an append looks at too many blocks.
const zeroPiece = 64 << 10

// writeZeros writes zeros to a file between two offsets, through the host's memory, and
// tells whether all of the file up to there has its space.
func writeZeros(f file, from, to int64) (reserved bool, err error) {
	if r, ok := f.(reserver); ok {
		if reserved, err = r.Reserve(to); err != nil {
			return false, err
		}
	}
	zeros := make([]byte, zeroPiece)
	for off := from; off < to; {
		n := min(zeroPiece-off%zeroPiece, to-off)
		if _, err := f.WriteAt(zeros[:n], off); err != nil {
			return false, err
		}
		off += n
	}
	return reserved, nil
}
