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
	segs     []scannedSegment
	spare    []*segment
}

type scannedSegment struct {
	*segment
	segmentHeader
}

// openSegments opens the segment files and sorts those of the log from spares.
func (j *journal) openSegments(firstGen generation) (*logScan, error) {
	names, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return nil, diskError("list "+j.dir, err)
	}
	s := &logScan{store: j.store, segLen: j.segLen, firstGen: firstGen}
	for slices.Contains(names, filepath.Base(segmentName(j.dir, j.made))) {
		if err := j.openSegment(s); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(s.segs, func(a, b scannedSegment) int { return cmp.Compare(a.segmentHeader.gen, b.segmentHeader.gen) })
	return s, nil
}

// openSegment opens the next segment file. All files are closed by the
// journal, so each goes on a list of it at once.
func (j *journal) openSegment(s *logScan) error {
	name := segmentName(j.dir, j.made)
	f, err := j.fs.Open(name)
	if err != nil {
		return diskError("open the log", err)
	}
	seg := &segment{no: j.made, f: f}
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
	zeros := make([]byte, 1<<20)
	for want := int64(j.segLen) * blockSize; err == nil && size < want; {
		n := min(want-size, int64(len(zeros)))
		_, err = f.WriteAt(zeros[:n], size)
		size += n
	}
	return diskError("complete a log segment", err)
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

// replay calls apply for every entry of the log, in order, and leaves the
// segments that it read live, and the journal ready to go on.
func (j *journal) replay(s *logScan, apply func(*entry, lsn) error) error {
	durable := lsn(0)
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
		last, claim, err := s.replaySegment(seg, limit, apply)
		if err != nil {
			return fmt.Errorf("replay log segment %s: %w", segmentName(j.dir, seg.no), err)
		}
		durable = max(durable, claim)
		j.adopt(seg, max(last, j.logged))
		if more && last != limit && limit >= seg.first {
			break // the tail of the segment was lost, and what follows with it
		}
		seg, ok = next, more
	}
	return s.checkDurable(j, durable)
}

const maxLSN = 1<<64 - 1

// adopt makes a segment live. What it holds may never have been synced.
func (j *journal) adopt(s scannedSegment, last lsn) {
	s.segment.gen, s.segment.last = s.segmentHeader.gen, last
	s.dirty.Store(true)
	j.live[s.segment.gen] = s.segment
	j.free = slices.DeleteFunc(j.free, func(f *segment) bool { return f == s.segment })
	j.prev, j.logged = s.segment.gen, last
}

// replaySegment applies the records of a segment up to limit, and returns the
// last entry and the highest claim of durability. It stops where a record is
// missing or torn: the end of the log.
func (s *logScan) replaySegment(seg scannedSegment, limit lsn, apply func(*entry, lsn) error) (last, claim lsn, err error) {
	last = seg.first - 1
	for at := uint32(1); at < s.segLen && last < limit; {
		r, err := s.readRecord(seg, at, last+1)
		if err != nil || r == nil {
			return last, claim, err
		}
		claim = max(claim, r.h.durable)
		if r.torn && r.h.first > s.claimed(seg, at) {
			return last, claim, nil
		}
		for i := range r.entries {
			if err := apply(&r.entries[i], r.h.first+lsn(i)); err != nil {
				return last, claim, err
			}
		}
		last = r.h.first + lsn(r.h.entries) - 1
		at += r.h.blocks()
	}
	return last, claim, nil
}

// logRecord is a record of which the head is good.
type logRecord struct {
	h       recordHeader
	entries []entry
	torn    bool // some data do not match their checksum
}

// readRecord reads the record at a block; nil if the log ends there.
func (s *logScan) readRecord(seg scannedSegment, at uint32, want lsn) (*logRecord, error) {
	head := make([]byte, blockSize)
	if err := readFull(seg.f, head, int64(at)*blockSize); err != nil {
		return nil, diskError("read the log", err)
	}
	h, err := decodeRecordHeader(head, s.segLen-at)
	var version *versionError
	if errors.As(err, &version) {
		return nil, err
	}
	if err != nil || h.gen != seg.segmentHeader.gen || want != 0 && h.first != want {
		return nil, nil
	}
	all := make([]byte, int(h.blocks())*blockSize)
	if err := readFull(seg.f, all, int64(at)*blockSize); err != nil {
		return nil, diskError("read the log", err)
	}
	data := int(h.headBlocks) * blockSize
	entries, err := decodeRecord(all[:data], &h, at)
	if err != nil {
		return nil, nil
	}
	return &logRecord{h: h, entries: entries, torn: !goodData(entries, all[data:])}, nil
}

func goodData(entries []entry, data []byte) bool {
	for i := range entries {
		if entries[i].kind != entryInline {
			continue
		}
		for _, c := range entries[i].crcs {
			if crc32.Checksum(data[:blockSize], castagnoli) != c {
				return false
			}
			data = data[blockSize:]
		}
	}
	return true
}

// claimed is the highest claim of durability in any record after a block of a
// segment, in it or in later ones: what is at most that is rotten, not torn.
func (s *logScan) claimed(seg scannedSegment, after uint32) lsn {
	claim := lsn(0)
	for _, c := range s.segs {
		if c.segmentHeader.gen < seg.segmentHeader.gen {
			continue
		}
		begin := uint32(1)
		if c.segment == seg.segment {
			begin = after + 1
		}
		for at := begin; at < s.segLen; at++ {
			if r, err := s.readRecord(c, at, 0); err == nil && r != nil {
				claim = max(claim, r.h.durable)
				at += r.h.blocks() - 1
			}
		}
	}
	return claim
}

// checkDurable refuses a log of which a part is gone that was durable. Only rot
// or a disk that lies can do that; going on would serve old data as new.
func (s *logScan) checkDurable(j *journal, claim lsn) error {
	if len(s.segs) == 0 {
		return nil
	}
	end := scannedSegment{}
	for _, c := range s.segs {
		if c.segmentHeader.gen == j.prev {
			end = c
		}
	}
	if end.segment != nil && j.logged != maxLSN {
		claim = max(claim, s.claimed(end, s.tail(end, j.logged)))
	}
	if claim > j.logged {
		return fmt.Errorf("log in %s is damaged: entries %d to %d were durable and cannot be read; "+
			"wipe this node's store and let it recover from the others: %w", j.dir, j.logged+1, claim, sheepdog.ErrChecksum)
	}
	return nil
}

// tail is the block after which records of a segment do not count.
func (s *logScan) tail(seg scannedSegment, last lsn) uint32 {
	at, want := uint32(1), seg.first
	for at < s.segLen && want <= last {
		r, err := s.readRecord(seg, at, want)
		if err != nil || r == nil {
			break
		}
		want = r.h.first + lsn(r.h.entries)
		at += r.h.blocks()
	}
	return max(at, 1) - 1
}
