package objectstore

import (
	"math/bits"
	"sync"
)

// space says which blocks of a disk's extent files are in use. Addresses are
// cheap, because unused ones are holes: it prefers blocks in a row to low
// addresses, and grows by a file rather than cut writes into small pieces. But
// where there is much slack, that is used first: to use it again costs less than
// to give it back and take other space. Single blocks of it cost more than that, so
// that they are left for later while the file system has room to borrow.
type space struct {
	perFile uint64 // blocks of an extent file, a multiple of 64

	mu     sync.Mutex
	used   []uint64 // bit per block; the header block of every file is set
	slack  []uint64 // bit per block: free, but may still take space, or is being given back
	nUsed  uint64   // without headers
	nSlack uint64
	idle   uint64 // the least excess since it was last asked for
	taken  uint64 // blocks that were taken since then
	borrow uint64 // see mayBorrow
	all    search // of all free blocks
	again  search // of slack
}

// search is what is known of free blocks from looking for them before.
type search struct {
	cursor uint64 // where the next one begins
	// longest is the longest row that the last full search could promise;
	// freed blocks make it worth while to look again.
	longest    uint64
	freedSince uint64
	slackOnly  bool
}

const longRow = 256

func newSpace(perFile uint64) *space {
	return &space{perFile: perFile, all: search{longest: longRow}, again: search{longest: longRow, slackOnly: true}}
}

func (s *space) blocks() uint64 { return uint64(len(s.used)) * 64 }

// files is the number of extent files.
func (s *space) files() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.blocks() / s.perFile)
}

// grow adds a file to the addresses.
func (s *space) grow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.blocks()
	s.used = append(s.used, make([]uint64, s.perFile/64)...)
	s.slack = append(s.slack, make([]uint64, s.perFile/64)...)
	s.used[at/64] |= 1
	s.all.cursor, s.all.longest = at, longRow
}

// allocate takes n blocks, in as few rows as it finds, but if there is much slack
// first what rows of at least so many blocks of that there are. When the addresses
// end it takes fewer: the caller grows and asks for the rest.
func (s *space) allocate(n, least uint64, runs []spaceRun) []spaceRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.borrow > 0 {
		least = max(least, rowBlocks)
	}
	if s.muchSlack() {
		runs, n = s.fill(&s.again, n, least, runs)
		if s.borrowed() {
			runs, n = s.fill(&s.again, n, 1, runs)
		}
	}
	runs, _ = s.fill(&s.all, n, 1, runs)
	return runs
}

// fill takes up to n blocks in rows of at least so many, and tells how many are
// missing.
func (s *space) fill(from *search, n, least uint64, runs []spaceRun) ([]spaceRun, uint64) {
	for want := min(n, from.longest); n > 0 && from.longest >= min(n, least); {
		if r, ok := s.find(from, want, n); ok {
			s.take(from, r)
			runs = append(runs, r)
			n -= r.n
			want = min(want, n)
			continue
		}
		if !from.slackOnly && (s.mayGrow() || want == 1) {
			break
		}
		want /= 4
		if !from.slackOnly {
			want = max(want, 1)
		}
		from.longest, from.freedSince = want, 0
	}
	return runs, n
}

// mayGrow: addresses are at most half again what is in use, or what is borrowed, and a
// file.
func (s *space) mayGrow() bool {
	return s.blocks() < s.nUsed+max(s.nUsed/2, s.bound())+s.perFile && s.nSlack < s.bound()
}

func (s *space) muchSlack() bool { return s.nSlack >= s.kept() }

// kept is the slack that is used before other space whatever there is.
func (s *space) kept() uint64 { return max(s.nUsed/8, minSlack/2) }

// mayBorrow sets how many blocks of slack the file system has room for beyond what is
// kept. As many as are in use are enough: with as much slack as data, all of which is
// replaced at random, there are rows of about seven blocks in it.
func (s *space) mayBorrow(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.borrow = n
}

// bound is how much slack there may be before all of it is used, down to single blocks.
func (s *space) bound() uint64 { return max(s.kept(), min(s.nUsed, s.borrow)) }

// borrowed reports whether there is as much slack as may be borrowed.
func (s *space) borrowed() bool { return s.borrow > 0 && s.nSlack >= s.bound() }

// minSlack is the slack that is always kept for the next writes, in blocks.
const minSlack = 16 << 20 / blockSize

// excess is how much slack is more than is kept: a quarter of what is in use.
func (s *space) excess() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.excessNow()
}

// excessNow is excess with the lock held.
func (s *space) excessNow() uint64 {
	return s.nSlack - min(s.nSlack, s.spare())
}

// spare is the slack that is kept for the next writes.
func (s *space) spare() uint64 { return max(s.nUsed/4, minSlack) }

// takeIdle tells how much of the excess nobody has used since the call before. To
// give space back that is soon taken again costs much and gains nothing. What is borrowed
// gathers while other space is taken, so that it is idle when nothing is; what is more
// than that, as after a deletion, is idle before.
func (s *space) takeIdle() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.excessNow()
	n := min(s.idle, now)
	if s.borrow > 0 && s.taken > idleBlocks {
		n -= min(n, s.bound()-min(s.bound(), s.spare()))
	}
	s.idle, s.taken = now, 0
	return n
}

// idleBlocks is how little is taken of a disk between two calls of takeIdle where
// nothing much happens: to give as many back block by block takes 0.03 s.
const idleBlocks = 1 << 20 / blockSize

// spaceRun is blocks in a row of one disk.
type spaceRun struct{ at, n uint64 }

// find searches for at least want free blocks in a row, from the cursor once
// around, and returns at most limit of them.
func (s *space) find(from *search, want, limit uint64) (spaceRun, bool) {
	end := s.blocks()
	if end == 0 || want == 0 {
		return spaceRun{}, false
	}
	if from.cursor >= end {
		from.cursor = 0
	}
	if r, ok := s.findIn(from, from.cursor, end, want, limit); ok {
		return r, true
	}
	return s.findIn(from, 0, min(from.cursor+want, end), want, limit)
}

func (s *space) findIn(from *search, at, end, want, limit uint64) (spaceRun, bool) {
	for at < end {
		free := s.next(from, at, end, true)
		if free == end {
			break
		}
		stop := s.next(from, free, min(free+limit, end), false)
		if stop-free >= want {
			return spaceRun{free, stop - free}, true
		}
		at = max(stop, free+1)
	}
	return spaceRun{}, false
}

// next is the first block from at that may be taken, or may not, or end.
func (s *space) next(from *search, at, end uint64, free bool) uint64 {
	for at < end {
		w := ^s.used[at/64]
		if from.slackOnly {
			w &= s.slack[at/64]
		}
		if !free {
			w = ^w
		}
		if w >>= at % 64; w != 0 {
			return min(at+uint64(bits.TrailingZeros64(w)), end)
		}
		at = (at/64 + 1) * 64
	}
	return end
}

func (s *space) take(from *search, r spaceRun) {
	for b := r.at; b < r.at+r.n; b++ {
		s.used[b/64] |= 1 << (b % 64)
		if s.slack[b/64]&(1<<(b%64)) != 0 {
			s.slack[b/64] &^= 1 << (b % 64)
			s.nSlack--
		}
	}
	s.nUsed += r.n
	s.taken += r.n
	from.cursor = r.at + r.n
	s.idle = min(s.idle, s.excessNow())
}

// mark notes at start that a block is in use; false if it was already.
func (s *space) mark(b uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b >= s.blocks() {
		return false
	}
	if s.used[b/64]&(1<<(b%64)) != 0 {
		return false
	}
	s.used[b/64] |= 1 << (b % 64)
	s.nUsed++
	return true
}

// free gives blocks back; those of files that are gone are none. A block that is not in use is a programming error:
// going on would give the same block to two objects.
func (s *space) free(at, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at+n > s.blocks() {
		return
	}
	for b := at; b < at+n; b++ {
		if s.used[b/64]&(1<<(b%64)) == 0 {
			panic("objectstore: a block is freed twice")
		}
		s.used[b/64] &^= 1 << (b % 64)
		s.slack[b/64] |= 1 << (b % 64)
	}
	s.nUsed -= n
	s.nSlack += n
	for _, f := range []*search{&s.all, &s.again} {
		f.longest = max(f.longest, min(n, longRow))
		if f.freedSince += n; f.freedSince > max(16*longRow, s.nSlack/4) {
			f.longest, f.freedSince = min(4*f.longest, longRow), 0
		}
	}
}

// slackBlocks is the number of free blocks that may still take space.
func (s *space) slackBlocks() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nSlack
}

func (s *space) usedBlocks() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nUsed
}

// assumeSlack treats every free block as one that may take space.
func (s *space) assumeSlack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nSlack = 0
	for i := range s.used {
		s.slack[i] = ^s.used[i]
		s.nSlack += uint64(bits.OnesCount64(s.slack[i]))
	}
}

// claimSlack takes the next row of slack from at on out of use while its space
// is given back; release ends that.
func (s *space) claimSlack(at uint64) (spaceRun, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; at < s.blocks(); at++ {
		if w := s.slack[at/64] >> (at % 64); w == 0 {
			at |= 63
		} else {
			at += uint64(bits.TrailingZeros64(w))
			break
		}
	}
	r := spaceRun{at: at}
	for b := at; b < s.blocks() && s.slack[b/64]&(1<<(b%64)) != 0; b++ {
		s.used[b/64] |= 1 << (b % 64)
		r.n++
	}
	return r, r.n > 0
}

// release makes claimed blocks free again; punched tells that they take no
// space any more.
func (s *space) release(r spaceRun, punched bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := r.at; b < r.at+r.n; b++ {
		s.used[b/64] &^= 1 << (b % 64)
		if punched {
			s.slack[b/64] &^= 1 << (b % 64)
			s.nSlack--
		}
	}
}

// clear forgets all use but the headers.
func (s *space) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.used)
	for b := uint64(0); b < s.blocks(); b += s.perFile {
		s.used[b/64] |= 1
	}
	s.nUsed = 0
}

// restore takes bitmaps of an earlier life over.
func (s *space) restore(used, slack []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.used, used)
	copy(s.slack, slack)
	s.nUsed, s.nSlack = 0, 0
	for i := range s.used {
		s.nUsed += uint64(bits.OnesCount64(s.used[i]))
		s.nSlack += uint64(bits.OnesCount64(s.slack[i]))
	}
	s.nUsed -= s.blocks() / s.perFile
}
