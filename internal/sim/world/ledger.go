package world

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

// Ledger remembers what clients did and saw. Its methods are safe for
// concurrent use; only Check must come last.
type Ledger struct {
	mu    sync.Mutex
	clock moment
	next  value
	disks map[string]*record
	count Counts
	found []error
	sync  bool
}

// Counts is what a Ledger was told.
type Counts struct {
	Reads, Writes, Zeroes, Flushes, Snapshots, Clones, Deletes, Rollbacks int

	Grown                                int // VDIs
	Groups, Flattened, Altered, Unlocked int // group snapshots, and what changes no bytes
	FUA                                  int // writes and zeroes that were acknowledged with it
	Unknown                              int // calls whose outcome nobody knows
	Cells, Searched                      int // histories of cells checked, and those by search too
}

// Total is all operations.
func (c Counts) Total() int {
	return c.Reads + c.Writes + c.Zeroes + c.Flushes + c.Snapshots + c.Clones + c.Deletes + c.Rollbacks + c.Flattened + c.Altered + c.Unlocked + c.Grown
}

// record is one VDI. It begins with zeros, or with what a snapshot holds.
type record struct {
	name  string
	cells int // at most
	least int // and at least: a resize may be under way
	eras  []*era
	snaps []*Snap
	// rolling says that a rollback is under way.
	rolling bool
	fate
}

// fate is what is known of whether something is in the directory.
type fate struct {
	made bool // its creation succeeded
	gone bool // a deletion has begun
	over bool // it succeeded
}

// era is the history between two losses of power of the whole cluster.
type era struct {
	initial [][]value // per cell; what may be there at the begin
	events  [][]event // per cell
	flushed moment    // when the last complete flush began
}

// SyncAlways says that what is acknowledged is durable.
func (l *Ledger) SyncAlways() { l.sync = true }

// NewLedger makes an empty one.
func NewLedger() *Ledger { return &Ledger{disks: make(map[string]*record)} }

func (l *Ledger) tick() moment { l.clock++; return l.clock }

func (l *Ledger) fail(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	l.found = append(l.found, err)
	return err
}

// Create adds a VDI that is all zeros.
func (l *Ledger) Create(name string, size uint64) {
	l.add(name, int(size/cellSize), func(int) value { return 0 })
}

// Clone adds a VDI that begins as a snapshot which somebody has looked at.
func (l *Ledger) Clone(name string, s *Snap) {
	l.mu.Lock()
	l.count.Clones++
	l.mu.Unlock()
	l.add(name, len(s.seen), func(i int) value { return s.seen[i] })
}

func (l *Ledger) add(name string, cells int, initial func(int) value) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := newEra(cells)
	for i := range e.initial {
		e.initial[i] = []value{initial(i)}
	}
	l.disks[name] = &record{name: name, cells: cells, least: cells, eras: []*era{e}}
}

// Growing begins a resize by so many bytes and returns the size; Grown says that it
// succeeded. What is added reads as zeros.
func (l *Ledger) Growing(name string, by uint64) (size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.disks[name]
	r.cells += int(by / cellSize)
	r.now().grow(r.cells)
	return uint64(r.cells) * cellSize
}

func (l *Ledger) Grown(name string, size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Grown++
	r := l.disks[name]
	r.least = max(r.least, int(size/cellSize))
}

// Sized checks the size that a VDI is found to have, in bytes.
func (l *Ledger) Sized(name string, size uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.disks[name]
	if n := int(size / cellSize); n < r.least || n > r.cells {
		return fmt.Errorf("VDI %s has %d cells, and should have %d to %d", name, n, r.least, r.cells)
	}
	return nil
}

// grow adds zeros.
func (e *era) grow(cells int) {
	for len(e.initial) < cells {
		e.initial, e.events = append(e.initial, []value{0}), append(e.events, nil)
	}
}

func newEra(cells int) *era {
	return &era{initial: make([][]value, cells), events: make([][]event, cells), flushed: before}
}

func (r *record) now() *era { return r.eras[len(r.eras)-1] }

// Call is an operation under way.
type Call struct {
	l      *Ledger
	r      *record
	by     int
	first  int // cells
	n      int
	v      value
	write  bool
	fua    bool // a write that is to be durable when it is done
	call   moment
	era    *era
	begins []int // where the events of a write are
}

// Write begins a write, and fills p with what is to be written.
func (l *Ledger) Write(by int, name string, p []byte, off uint64) *Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	l.count.Writes++
	c := l.begin(by, name, len(p), off, l.next)
	for i := range c.n {
		fillCell(p[i*cellSize:][:cellSize], c.v, c.first+i)
	}
	return c
}

// Zero begins a write of zeros.
func (l *Ledger) Zero(by int, name string, off, n uint64) *Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Zeroes++
	return l.begin(by, name, int(n), off, 0)
}

// begin notes a write as one of unknown outcome. mu is held.
func (l *Ledger) begin(by int, name string, bytes int, off uint64, v value) *Call {
	r := l.disks[name]
	c := &Call{l: l, r: r, by: by, first: int(off / cellSize), n: bytes / cellSize, v: v, write: true, call: l.tick(), era: r.now()}
	for i := range c.n {
		at := &c.era.events[c.first+i]
		c.begins = append(c.begins, len(*at))
		*at = append(*at, event{v: v, write: true, call: c.call, ret: never, by: int32(by)})
	}
	return c
}

// Done says how a write ended; after an error nobody knows.
func (c *Call) Done(err error) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if err != nil {
		c.l.count.Unknown++
		return
	}
	ret := c.l.tick()
	for i, at := range c.begins {
		e := &c.era.events[c.first+i][at]
		e.ret, e.fua = ret, c.fua
	}
	if c.fua {
		c.l.count.FUA++
	}
}

// Read begins a read.
func (l *Ledger) Read(by int, name string, n int, off uint64) *Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Reads++
	r := l.disks[name]
	return &Call{l: l, r: r, by: by, first: int(off / cellSize), n: n / cellSize, call: l.tick(), era: r.now()}
}

// Saw says what a read returned.
func (c *Call) Saw(p []byte) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	ret := c.l.tick()
	for i := range c.n {
		v, err := readCell(p[i*cellSize:][:cellSize], c.first+i)
		if err != nil {
			return c.l.fail("client %d read VDI %s: %w", c.by, c.r.name, err)
		}
		at := &c.era.events[c.first+i]
		*at = append(*at, event{v: v, call: c.call, ret: ret, by: int32(c.by)})
	}
	return nil
}

// SawHole says that n bytes from off, of what a read began with, are said to read as
// zeros; those that share a cell with others are left out.
func (c *Call) SawHole(off, n uint64) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	ret := c.l.tick()
	for i := (off + cellSize - 1) / cellSize; i < (off+n)/cellSize; i++ {
		at := &c.era.events[c.first+int(i)]
		*at = append(*at, event{call: c.call, ret: ret, by: int32(c.by), hole: true})
	}
}

// Flush begins a flush; the result says that it was complete.
func (l *Ledger) Flush(name string) (complete func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Flushes++
	r, call := l.disks[name], l.tick()
	e := r.now()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		e.flushed = max(e.flushed, call)
	}
}

// PowerLoss begins a new era: all disks lost what was not flushed. No call may
// be under way.
func (l *Ledger) PowerLoss() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.disks {
		old, e := r.now(), newEra(r.cells)
		if l.sync {
			old.flushed = l.tick()
		}
		for i := range e.initial {
			e.initial[i] = survivors(old.events[i], old.initial[i], old.flushed)
		}
		r.eras = append(r.eras, e)
	}
}

// Check finds out whether everything that clients saw makes sense.
func (l *Ledger) Check(rng *rand.Rand) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &checker{l: l, rng: rng, done: make(map[uint64]bool), hash: maphash.MakeSeed()}
	for _, name := range slices.Sorted(maps.Keys(l.disks)) {
		k.record(l.disks[name])
	}
	if len(l.found) > 0 {
		return l.found[0]
	}
	return nil
}

// checker is one run of Check.
type checker struct {
	l    *Ledger
	rng  *rand.Rand
	hash maphash.Seed
	done map[uint64]bool // histories already checked: neighbours share most
}

// sampled is the part of the histories that are searched besides, as a test of
// the faster check.
const sampled = 0.02

func (k *checker) record(r *record) {
	for n, e := range r.eras {
		for i, events := range e.events {
			if err := k.cell(events, e.initial[i]); err != nil {
				k.l.fail("VDI %s cell %d (offset %d) era %d: %w\n%s", r.name, i, i*cellSize, n, err, printed(events))
				return
			}
		}
	}
	for _, s := range r.snaps {
		if err := s.consistent(); err != nil {
			k.l.fail("snapshot %s@%s is no point in time: %w", r.name, s.Tag, err)
		}
	}
}

func (k *checker) cell(events []event, initial []value) error {
	if len(events) == 0 {
		return nil
	}
	var h maphash.Hash
	h.SetSeed(k.hash)
	maphash.WriteComparable(&h, len(initial))
	for _, v := range initial {
		maphash.WriteComparable(&h, v)
	}
	for _, e := range events {
		maphash.WriteComparable(&h, e)
	}
	if k.done[h.Sum64()] {
		return nil
	}
	k.done[h.Sum64()] = true
	k.l.count.Cells++
	err := linear(events, initial)
	if err == nil && k.rng.Float64() < sampled {
		k.l.count.Searched++
		err = search(events, initial)
	}
	return err
}

func printed(events []event) string {
	events = slices.Clone(events)
	slices.SortFunc(events, func(a, b event) int { return int(a.call - b.call) })
	out := ""
	for _, e := range events {
		out += "    " + e.String() + "\n"
	}
	return out
}

// Count counts what changes no bytes.
func (l *Ledger) Count(add func(c *Counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add(&l.count)
}

// Fault notes what went wrong elsewhere.
func (l *Ledger) Fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = append(l.found, err)
}

// Known reports whether somebody has looked at the snapshot.
func (l *Ledger) Known(s *Snap) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.seen != nil
}

// Made says that the creation of a VDI succeeded.
func (l *Ledger) Made(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disks[name].made = true
}

// Delete begins a deletion; DeletedVDI says that it succeeded.
func (l *Ledger) Delete(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Deletes++
	l.disks[name].gone = true
}

// DeletedVDI says that the deletion of a VDI succeeded.
func (l *Ledger) DeletedVDI(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disks[name].over = true
}

// Gone reports whether a deletion has begun.
func (l *Ledger) Gone(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.disks[name].gone
}

// DeleteSnap begins the deletion of a snapshot; Deleted says that it succeeded.
func (l *Ledger) DeleteSnap(s *Snap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Deletes++
	s.gone = true
}

// Deleted says that the deletion of a snapshot succeeded.
func (l *Ledger) Deleted(s *Snap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.over = true
}

// Names lists the VDIs of the ledger.
func (l *Ledger) Names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.disks))
}

// Snaps lists the snapshots of a VDI.
func (l *Ledger) Snaps(name string) []*Snap {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.disks[name].snaps)
}

// Listed checks what the directory lists of a VDI, or of a snapshot of it.
func (l *Ledger) Listed(name string, s *Snap, listed bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.disks[name].fate
	if s != nil {
		f = s.fate
		name += "@" + s.Tag
	}
	switch {
	case listed && f.over:
		return fmt.Errorf("%s was deleted but is listed", name)
	case !listed && f.made && !f.gone:
		return fmt.Errorf("%s is not listed", name)
	}
	return nil
}

// Counts tells what the ledger was told.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// First is the first thing that made no sense so far.
func (l *Ledger) First() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.found) > 0 {
		return l.found[0]
	}
	return nil
}
