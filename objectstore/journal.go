package objectstore

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// journal is the log: a ring of preallocated segment files. The holder of the
// commit role alone appends. Segments are made when they are first needed, so
// that an idle store stays small.
type journal struct {
	fs      fileSystem
	dir     string
	store   uint64
	form    logForm
	segLen  uint32 // blocks of a segment, header included
	maxSegs int
	noSync  bool
	kick    func()      // asks for a destage
	broken  func(error) // told when the log stops for good; may be nil
	// ahead asks for makeAhead, see there; it has room for one. nil: segments are made
	// when they are needed.
	ahead chan struct{}
	// behind takes stretches that are long enough, see push; nil: nobody does.
	behind chan stretch

	// Owned by the holder of the commit role.
	next   lsn        // of the next entry
	gen    generation // the highest ever used; also guarded by mu
	prev   generation // of the sealed segment at the end of the log
	logged lsn        // the last entry of prev that counts
	at     uint32     // next free block of the active segment
	begun  uint32     // and up to which it is being written to the disk, see push
	buf    []byte     // of a record's head
	pieces [][]byte   // of a record
	whole  []byte     // of a record that is not written from its pieces
	asked  bool       // of ahead, since the last rotation
	rooted bool       // a segment of this life has a durable header, or none needs one

	applied atomic.Uint64 // LSN of the last entry that is in the maps
	durable atomic.Uint64 // LSN up to which entries are known to be durable
	// reserved is the last generation that the metadata store takes for used.
	reserved atomic.Uint64

	syncMu sync.Mutex
	// remember has the metadata store know that there is something durable in the log, for
	// good, and says whether it does; remembered is guarded by syncMu.
	remember   func() (bool, error)
	remembered bool
	shares     shares

	mu     sync.RWMutex
	cond   *sync.Cond // on mu: free segments or the end of a destage
	made   int
	making bool                    // somebody makes one
	live   map[generation]*segment // active and sealed
	active *segment
	free   []*segment
	raw    []*segment // that were made, and not synced since
	unfit  int        // the lowest free segment that is given up; noneUnfit: none is
	// Destages that ended, and the error of the last one.
	rounds  uint64
	lastErr error
	failure error        // set once: nothing can be appended any more
	stopped atomic.Bool  // there is a failure
	inUse   atomic.Int64 // len(live)
}

func (j *journal) init() {
	j.cond = sync.NewCond(&j.mu)
	j.live = make(map[generation]*segment)
	j.unfit = noneUnfit
}

// append writes one record with the entries of tasks and the data of the inline
// ones, whose runs it fills in, and returns the LSN of the first entry. Structural
// records may use the last free segment, so that a full store can delete.
func (j *journal) append(tasks []*task, structural bool) (lsn, error) {
	size, blocks := 0, uint32(0)
	for _, t := range tasks {
		size += t.e.size()
		blocks += t.dataBlocks()
	}
	head := headBlocksOf(size)
	if err := j.room(head+blocks, structural); err != nil {
		return 0, err
	}
	at := j.at + head
	b := append(j.buf[:0], zeroBlock[:recordFixed]...)
	j.pieces = append(j.pieces[:0], nil, nil) // the head and what makes it whole
	for _, t := range tasks {
		if e := &t.e; e.kind == entryInline {
			n := t.dataBlocks()
			e.runs = append(e.runs[:0], run{logPlace(j.gen, at), n})
			at += n
			j.pieces = append(j.pieces, t.data)
		}
		b = t.e.append(b)
	}
	h := recordHeader{gen: j.gen, first: j.next, durable: lsn(j.durable.Load()), dataBlocks: blocks, entries: uint32(len(tasks))}
	j.pieces[0], j.pieces[1] = b, finishRecord(b, &h, j.form)
	j.buf = b
	if err := j.put(int64(head+blocks) * blockSize); err != nil {
		return 0, j.fail(diskError("write the log", err))
	}
	j.charge(tasks, head)
	from := j.at
	j.at = at
	j.next += lsn(len(tasks))
	j.push(from)
	if j.ahead != nil && !j.asked && j.at > j.segLen/segmentAhead {
		j.asked = true
		select {
		case j.ahead <- struct{}{}:
		default:
		}
	}
	return h.first, nil
}

// charge notes whose a record is that was written to the active segment.
func (j *journal) charge(tasks []*task, head uint32) {
	n := uint64(head)
	for i, t := range tasks {
		n += uint64(t.dataBlocks())
		if f := t.e.key.Object.Family; i+1 == len(tasks) || tasks[i+1].e.key.Object.Family != f {
			j.shares.charge(j.active, f, n)
			n = 0
		}
	}
}

// put writes the n bytes of pieces to where the next record belongs.
func (j *journal) put(n int64) error {
	defer clear(j.pieces)
	off, done := int64(j.at)*blockSize, 0
	if f, ok := j.active.f.(gatherFile); ok {
		done = f.gatherAt(j.pieces, off)
	}
	if int64(done) == n {
		return nil
	}
	j.whole = j.whole[:0]
	for _, p := range j.pieces {
		j.whole = append(j.whole, p...)
	}
	_, err := j.active.f.WriteAt(j.whole[done:], off+int64(done))
	return err
}

// gatherFile is a file that can be written from several places in memory at once.
type gatherFile interface {
	// gatherAt writes pieces that follow each other in the file and tells how many
	// bytes. What it does not write, errors included, is left to WriteAt.
	gatherAt(pieces [][]byte, off int64) int
}

// scatterFile is a file that can be read to several places in memory at once.
type scatterFile interface {
	// scatterAt fills pieces that follow each other in the file. If it is false they hold
	// anything, and ReadAt tells why.
	scatterAt(pieces [][]byte, off int64) bool
}

// fail stops the log for good: after a failed write nobody knows what a replay
// would find, so nothing may rely on its outcome.
func (j *journal) fail(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failure == nil {
		j.failure = fmt.Errorf("store is out of service until it is opened again: %w", err)
		j.stopped.Store(true)
		if j.broken != nil {
			j.broken(j.failure)
		}
	}
	j.cond.Broadcast()
	return j.failure
}

func (j *journal) failed() error {
	if !j.stopped.Load() {
		return nil
	}
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.failure
}

// room makes the active segment have n free blocks.
func (j *journal) room(n uint32, structural bool) error {
	if err := j.failed(); err != nil {
		return err
	}
	if n > j.segLen-1 {
		return fmt.Errorf("log record of %d blocks: %w", n, sheepdog.ErrInvalid)
	}
	if j.active != nil && j.at+n <= j.segLen {
		return nil
	}
	return j.rotate(structural)
}

// rotate seals the active segment and begins another.
func (j *journal) rotate(structural bool) error {
	j.seal()
	s, err := j.takeFree(structural)
	if err != nil {
		return err
	}
	h := segmentHeader{version: j.form.version, store: j.store, gen: j.gen + 1, first: j.next, prev: j.prev, last: j.logged}
	if err := j.begin(s, &h); err != nil {
		return j.fail(diskError("begin a log segment", err))
	}
	j.at, j.begun, j.asked = 1, 0, false
	j.mu.Lock()
	j.gen++
	s.gen, s.last = j.gen, 0
	j.active = s
	j.live[j.gen] = s
	j.inUse.Store(int64(len(j.live)))
	crowded := len(j.live) > j.maxSegs/2
	j.mu.Unlock()
	if crowded {
		j.kick()
	}
	return nil
}

// begin puts the header of a new lap into a segment. No generation may be given out
// again after a loss of power, or records of both lives could be taken for one log.
// So it is reserved, or the header is durable before the first record. That of the
// first segment of a life always is if there is a log before it: it says where that
// ends. All else waits for the next sync of the log, whose writers would wait for this one.
func (j *journal) begin(s *segment, h *segmentHeader) error {
	if _, err := s.f.WriteAt(h.encode(), 0); err != nil || j.noSync {
		return err
	}
	if j.rooted && uint64(h.gen) <= j.reserved.Load() {
		s.dirty.Store(true)
		return nil
	}
	err := s.sync()
	j.rooted = err == nil
	return err
}

// wanted is up to which generation the log may come before the next destage ends,
// and the one after.
func (j *journal) wanted() generation {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return max(j.gen+generation(2*j.maxSegs), generation(j.reserved.Load()))
}

// seal ends the active segment, so that a destage can free it. Commit role.
func (j *journal) seal() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.active != nil && j.at > 1 {
		j.active.last = j.next - 1
		j.prev, j.logged = j.gen, j.next-1
		j.active, j.at = nil, 0
	}
}

// takeFree waits for a free segment, bounded by two destages. One that is made
// already stays for structural records: on a full file system no other can be.
func (j *journal) takeFree(structural bool) (*segment, error) {
	keep := 1
	if structural {
		keep = 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var makeErr error
	for begin := j.rounds; ; {
		if len(j.free) > keep && j.unfit == noneUnfit {
			return j.takeLowest(), nil
		}
		if j.failure != nil {
			return nil, j.failure
		}
		if j.making {
			j.cond.Wait()
			continue
		}
		if j.made < j.maxSegs {
			if makeErr = j.makeSegment(); makeErr == nil {
				continue
			}
		}
		if err := cmp.Or(makeErr, j.lastErr); err != nil && j.rounds >= begin+2 {
			return nil, fmt.Errorf("log is full: %w", err)
		}
		j.kick()
		j.cond.Wait()
	}
}

// takeLowest takes the free segment with the lowest number; the caller holds mu.
func (j *journal) takeLowest() *segment {
	s := slices.MinFunc(j.free, func(a, b *segment) int { return cmp.Compare(a.no, b.no) })
	j.free = slices.DeleteFunc(j.free, func(f *segment) bool { return f == s })
	return s
}

// await waits until ok, which is asked under mu, bounded by two destages that
// fail.
func (j *journal) await(ok func() bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for begin := j.rounds; !ok(); {
		if j.failure != nil {
			return j.failure
		}
		if j.rounds >= begin+2 && j.lastErr != nil {
			return fmt.Errorf("store is behind: %w", j.lastErr)
		}
		j.kick()
		j.cond.Wait()
	}
	return nil
}

// sync makes every entry up to upto durable, and what was appended since.
func (j *journal) sync(upto lsn) error {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	if err := j.failed(); err != nil || lsn(j.durable.Load()) >= upto {
		return err
	}
	j.mu.RLock()
	segs := make([]*segment, 0, len(j.live))
	for _, g := range slices.Sorted(maps.Keys(j.live)) {
		segs = append(segs, j.live[g])
	}
	j.mu.RUnlock()
	for _, s := range segs {
		if !s.dirty.Swap(false) || j.noSync {
			continue
		}
		if err := s.sync(); err != nil {
			return j.fail(diskError("sync the log", err))
		}
	}
	if !j.remembered && !j.noSync {
		var err error
		if j.remembered, err = j.remember(); err != nil {
			return j.fail(err)
		}
	}
	j.durable.Store(uint64(upto))
	return nil
}

// sealed lists the generations that can be destaged, ascending, without the
// active one.
func (j *journal) sealed() (last generation, upto lsn) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	for g, s := range j.live {
		if s != j.active && g > last {
			last, upto = g, s.last
		}
	}
	return last, upto
}

// beginning is where the log begins once generations up to last are retired. What a
// loss of power cut off is before it, and never counts again.
func (j *journal) beginning(last generation) generation {
	j.mu.RLock()
	defer j.mu.RUnlock()
	first := j.gen + 1
	for g := range j.live {
		if g > last {
			first = min(first, g)
		}
	}
	return first
}

// segments counts the live segments.
func (j *journal) segments() int { return int(j.inUse.Load()) }

// retire gives segments up to a generation back; no map or reader can reach
// them any more.
func (j *journal) retire(upto generation) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for g, s := range j.live {
		if g <= upto && s != j.active {
			delete(j.live, g)
			s.dirty.Store(false)
			j.shares.release(s)
			j.free = append(j.free, s)
		}
	}
	j.inUse.Store(int64(len(j.live)))
	j.cond.Broadcast()
}

// look has writers that wait for room look again: some may have been made.
func (j *journal) look() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cond.Broadcast()
}

// ended tells writers that wait for room that a destage is over.
func (j *journal) ended(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rounds++
	j.lastErr = err
	j.cond.Broadcast()
}

// ends counts the destages that ended.
func (j *journal) ends() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.rounds
}

// failedSince reports whether a destage failed that began after so many had ended.
func (j *journal) failedSince(ends uint64) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.lastErr != nil && j.rounds >= ends+2
}

// read reads blocks at a log place; the caller is inside the guard.
func (j *journal) read(at place, buf []byte) error {
	j.mu.RLock()
	s := j.live[at.generation()]
	j.mu.RUnlock()
	if s == nil {
		return fmt.Errorf("read %s: not in the log: %w", at, sheepdog.ErrIO)
	}
	off := at.segmentOffset()
	if f, ok := s.f.(promptFile); ok && f.TryReadAt(buf, off) { // mostly: it was written lately
		return nil
	}
	return diskError("read the log", readFull(s.f, buf, off))
}

// tryScatter reads pieces that follow each other from a log place on, if the file can do
// that by one call and it succeeds; else read tells what is wrong.
func (j *journal) tryScatter(at place, pieces [][]byte) bool {
	j.mu.RLock()
	s := j.live[at.generation()]
	j.mu.RUnlock()
	if s == nil {
		return false
	}
	f, ok := s.f.(scatterFile)
	return ok && f.scatterAt(pieces, at.segmentOffset())
}

func (j *journal) allocated() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return uint64(j.made) * uint64(j.segLen) * blockSize
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, s := range j.live {
		errs = append(errs, s.f.Close())
	}
	for _, s := range j.free {
		errs = append(errs, s.f.Close())
	}
	j.live, j.free, j.active = nil, nil, nil
	return errors.Join(errs...)
}
