package objectstore

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

const (
	// longRead is from how many blocks on a read is long enough to gain from rows.
	longRead = 32
	// raggedRow is below how many blocks a row has, on average, where it is worth while to
	// move them. A lone write adds two rows at most, so that at least an eighth of a window
	// was written before it is moved again.
	raggedRow = 4
	// windowBlocks is how many blocks of an object are moved together, in order.
	windowBlocks = 256
	// raggedBits is how many reads are told apart, roughly: two that share a bit are taken
	// for one.
	raggedBits = 1 << 19
	// raggedFor is how long a read is remembered, at least; twice that at most.
	raggedFor = time.Hour
	// raggedWaiting bounds the windows that wait to be moved.
	raggedWaiting = 4096
)

// window is blocks of an object from a multiple of windowBlocks on.
type window struct {
	obj   sheepdog.ObjectID
	start sheepdog.BlockNo
	print uint64 // of the read that asked for it
}

// ragged is what long reads found in short rows: with a read that is repeated while all
// its blocks are still where they were, its window begins to wait for being moved. What
// is written again and again at random is therefore left alone, and so is what is read
// once. The memory for it is bounded and forgets.
type ragged struct {
	turns [2]atomic.Pointer[raggedTurn] // nil: nothing noted
	turn  atomic.Uint32                 // of turns: the present one
	wake  chan struct{}                 // has one if windows wait; nil: nothing is noted

	mu      sync.Mutex
	waiting []window // oldest first
}

type raggedTurn [raggedBits / 64]atomic.Uint64

// note tells of a read. It costs next to nothing where rows are long.
func (r *ragged) note(obj sheepdog.ObjectID, start sheepdog.BlockNo, slots []slot) {
	if r.wake == nil || len(slots) < longRead {
		return
	}
	rows, blocks, print := rowsOf(slots)
	if !tooRagged(rows, blocks) {
		return
	}
	print = mix64(print ^ mix64(uint64(obj.Family)) ^ uint64(obj.Index)<<32 ^ uint64(start))
	if r.mark(print) && !r.mark(waits(print)) {
		r.push(obj, start, len(slots), print)
	}
}

// waits is what is marked beside the print of a read once its window waits.
func waits(print uint64) uint64 { return mix64(print + 1) }

func tooRagged(rows, blocks int) bool { return blocks >= longRead && rows*raggedRow >= blocks }

// rowsOf counts the rows of what has data, and the blocks, and tells a hash of where the
// rows are. Anything in the log was written lately: then there are none.
func rowsOf(slots []slot) (rows, blocks int, print uint64) {
	last := place(0)
	for i := range slots {
		at := slots[i].at
		if at.inLog() {
			return 0, 0, 0
		}
		if at == 0 {
			last = 0
			continue
		}
		if blocks++; !at.follows(last) {
			rows++
			print = mix64(print ^ uint64(at) ^ uint64(i)<<52)
		}
		last = at
	}
	return rows, blocks, print
}

// mark notes a print, and reports whether it was noted before.
func (r *ragged) mark(print uint64) (before bool) {
	now := r.turn.Load() & 1
	n := print % raggedBits
	bit := uint64(1) << (n % 64)
	for i := range r.turns {
		t := r.turns[i].Load()
		before = before || t != nil && t[n/64].Load()&bit != 0
	}
	t := r.turns[now].Load()
	if t == nil {
		r.turns[now].CompareAndSwap(nil, new(raggedTurn))
		t = r.turns[now].Load()
	}
	if t != nil {
		t[n/64].Or(bit)
	}
	return before
}

// unmark lets a later read ask again.
func (r *ragged) unmark(print uint64) {
	n := print % raggedBits
	for i := range r.turns {
		if t := r.turns[i].Load(); t != nil {
			t[n/64].And(^(uint64(1) << (n % 64)))
		}
	}
}

// forget begins a new turn: what was read in the last but one, and not since, is forgotten.
func (r *ragged) forget() {
	r.turns[(r.turn.Load()+1)&1].Store(nil)
	r.turn.Add(1)
}

// push has the windows of a read wait, as far as there is room.
func (r *ragged) push(obj sheepdog.ObjectID, start sheepdog.BlockNo, blocks int, print uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := start + sheepdog.BlockNo(blocks)
	for at := start / windowBlocks * windowBlocks; at < end; at += windowBlocks {
		if slices.ContainsFunc(r.waiting, func(w window) bool { return w.obj == obj && w.start == at }) {
			continue
		}
		if len(r.waiting) == raggedWaiting {
			r.unmark(waits(print))
			return
		}
		r.waiting = append(r.waiting, window{obj, at, print})
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns up to n windows that wait.
func (r *ragged) take(n int) []window {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(n, len(r.waiting))
	out := slices.Clone(r.waiting[:n])
	r.waiting = slices.Delete(r.waiting, 0, n)
	return out
}

// count is how many windows wait.
func (r *ragged) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}
