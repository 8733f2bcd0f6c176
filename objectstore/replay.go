package objectstore

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"

	"sheepdog"
)

// logScan finds the log in the segment files and reads its entries.
type logScan struct {
	store    uint64
	segLen   uint32
	firstGen generation
	segs     []scannedSegment // ascending
	retired  lsn
	// claim is the highest claim of durability in any record. What is bad up to
	// it is rotten; what is bad after it was never finished.
	claim lsn
}

type scannedSegment struct {
	*segment
	segmentHeader
}

// openSegments opens the segment files and sorts those of the log from spares.
func (j *journal) openSegments(ck checkpoint) (*logScan, error) {
	names, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return nil, diskError("list "+j.dir, err)
	}
	s := &logScan{store: j.store, segLen: j.segLen, firstGen: ck.firstGen, retired: ck.retired}
	named := j.naming() // the process before may have died before it did that
	for n := j.segmentsOf(names); j.made < n; {
		last := j.made == n-1
		err := j.openSegment(s, named)
		if last && errors.Is(err, sheepdog.ErrNoSpace) {
			if err := j.unmake(j.free[len(j.free)-1]); err != nil {
				return nil, err
			}
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(s.segs, func(a, b scannedSegment) int { return cmp.Compare(a.segmentHeader.gen, b.segmentHeader.gen) })
	return s, nil
}

// segmentsOf is how many segment files there are to be, by the highest number. One that
// is not there is made again: either it was lost with the power while nothing was durable,
// or what is in the others tells that more was. Numbers far beyond those that are there
// are not ours.
func (j *journal) segmentsOf(names []string) int {
	var numbers []int
	for _, name := range names {
		var no int
		if _, err := fmt.Sscanf(name, "log.%d", &no); err == nil && name == filepath.Base(segmentName("", no)) {
			numbers = append(numbers, no)
		}
	}
	n := 0
	for _, no := range numbers {
		if no < len(numbers)+j.maxSegs {
			n = max(n, no+1)
		}
	}
	return n
}

// openSegment opens the next segment file. All files are closed by the
// journal, so each goes on a list of it at once.
func (j *journal) openSegment(s *logScan, named func() error) error {
	name := segmentName(j.dir, j.made)
	f, err := j.fs.Open(name)
	if err != nil {
		return diskError("open the log", err)
	}
	seg := &segment{no: j.made, f: f, named: named}
	j.made++
	j.free = append(j.free, seg)
	if err := j.completeSegment(f); err != nil {
		return err
	}
	head := make([]byte, blockSize)
	if err := readFull(f, head, 0); err != nil {
		return diskError("read the log", err)
	}
	h, err := decodeSegmentHeader(head)
	switch {
	case errors.Is(err, errNoRecord):
		return nil
	case err != nil:
		return fmt.Errorf("log segment %s: %w", name, err)
	case h.store != j.store:
		return fmt.Errorf("log segment %s belongs to another store: %w", name, sheepdog.ErrInvalid)
	}
	j.gen = max(j.gen, h.gen)
	if h.gen >= s.firstGen {
		s.segs = append(s.segs, scannedSegment{seg, h})
	}
	return nil
}

// completeSegment fills up a file that was being made when the process died, or
// that another LogBytes made shorter.
func (j *journal) completeSegment(f file) error {
	size, err := f.Size()
	if want := int64(j.segLen) * blockSize; err == nil && size < want {
		_, err = writeZeros(f, size, want)
	}
	return diskError("complete a log segment", err)
}

// readClaims finds the claim, in whatever is left of the log.
func (s *logScan) readClaims() error {
	for _, seg := range s.segs {
		for at := uint32(1); at < s.segLen; {
			r, err := s.readHead(seg, at)
			if err != nil {
				return err
			}
			if r == nil {
				at++
				continue
			}
			s.claim = max(s.claim, r.h.durable)
			at += r.h.blocks()
		}
	}
	return nil
}

// successor is the segment that follows generation g, or that begins the log if
// g is 0.
func (s *logScan) successor(g generation) (scannedSegment, bool) {
	for _, c := range slices.Backward(s.segs) {
		if g == 0 && c.prev < s.firstGen || g != 0 && c.prev == g && c.segmentHeader.gen > g {
			return c, true
		}
	}
	return scannedSegment{}, false
}

// errUnfinished is what an apply function returns for an entry whose data were
// lost with the power before they were durable: the log ends before it.
var errUnfinished = errors.New("data of the entry were lost")

// replay calls apply for every entry of the log, in order, and leaves the
// segments that it read live, and the journal ready to go on. It refuses a log
// of which a part is gone that was durable: only rot or a disk that lies can do
// that, and going on would serve old data as new.
func (j *journal) replay(s *logScan, apply func(*entry, lsn) error) error {
	seg, ok := s.successor(0)
	if ok {
		j.logged = seg.first - 1
	}
	for ok {
		next, more := s.successor(seg.segmentHeader.gen)
		limit := lsn(maxLSN)
		if more {
			limit = next.segmentHeader.last
		}
		last, err := s.replaySegment(seg, limit, apply)
		if err != nil {
			return fmt.Errorf("replay log segment %s: %w", segmentName(j.dir, seg.no), err)
		}
		j.adopt(seg, last)
		if more && last != limit {
			break // the tail of the segment was lost, and what follows with it
		}
		seg, ok = next, more
	}
	if s.claim > max(j.logged, s.retired) && len(s.segs) > 0 {
		return fmt.Errorf("log in %s is damaged: entries %d to %d were durable and cannot be read; "+
			"%s: %w", j.dir, j.logged+1, s.claim, startAnew, sheepdog.ErrChecksum)
	}
	return nil
}

const maxLSN = 1<<64 - 1

// adopt makes a segment live. What it holds may never have been synced.
func (j *journal) adopt(s scannedSegment, last lsn) {
	s.segment.gen, s.segment.last = s.segmentHeader.gen, last
	s.dirty.Store(true)
	j.live[s.segment.gen] = s.segment
	j.inUse.Store(int64(len(j.live)))
	j.free = slices.DeleteFunc(j.free, func(f *segment) bool { return f == s.segment })
	j.prev, j.logged = s.segment.gen, last
}

// replaySegment applies the entries of a segment up to limit, and returns the
// last one. It stops where a record is missing or unfinished: the end of the
// log.
func (s *logScan) replaySegment(seg scannedSegment, limit lsn, apply func(*entry, lsn) error) (last lsn, err error) {
	last = seg.first - 1
	for at := uint32(1); at < s.segLen && last < limit; {
		r, err := s.readHead(seg, at)
		if err != nil || r == nil || r.h.first != last+1 {
			return last, err
		}
		whole, err := s.dataGood(seg, at, r)
		if err != nil || !whole && r.h.first > s.claim {
			return last, err
		}
		for i := range r.entries {
			if last == limit {
				return last, nil
			}
			if err := apply(&r.entries[i], last+1); err != nil {
				if errors.Is(err, errUnfinished) {
					err = nil
				}
				return last, err
			}
			last++
		}
		at += r.h.blocks()
	}
	return last, nil
}

// logRecord is the head of a record.
type logRecord struct {
	h       recordHeader
	entries []entry
}

// readHead reads the head of the record at a block; nil if there is none.
func (s *logScan) readHead(seg scannedSegment, at uint32) (*logRecord, error) {
	head := make([]byte, blockSize)
	if err := readFull(seg.f, head, int64(at)*blockSize); err != nil {
		return nil, diskError("read the log", err)
	}
	form := newLogForm(seg.version, s.store)
	h, err := decodeRecordHeader(head, s.segLen-at, form)
	if err != nil || h.gen != seg.segmentHeader.gen {
		return nil, nil
	}
	if h.headBlocks > 1 {
		head = append(head, make([]byte, int(h.headBlocks-1)*blockSize)...)
		if err := readFull(seg.f, head[blockSize:], int64(at+1)*blockSize); err != nil {
			return nil, diskError("read the log", err)
		}
	}
	entries, err := decodeRecord(head, &h, at, form)
	if err != nil {
		return nil, nil
	}
	return &logRecord{h: h, entries: entries}, nil
}

// dataGood verifies the inline data of a record.
func (s *logScan) dataGood(seg scannedSegment, at uint32, r *logRecord) (bool, error) {
	if r.h.dataBlocks == 0 {
		return true, nil
	}
	data := make([]byte, int(r.h.dataBlocks)*blockSize)
	if err := readFull(seg.f, data, int64(at+r.h.headBlocks)*blockSize); err != nil {
		return false, diskError("read the log", err)
	}
	for i := range r.entries {
		if r.entries[i].kind != entryInline {
			continue
		}
		for _, c := range r.entries[i].crcs {
			if crc32.Checksum(data[:blockSize], castagnoli) != c {
				return false, nil
			}
			data = data[blockSize:]
		}
	}
	return true, nil
}
