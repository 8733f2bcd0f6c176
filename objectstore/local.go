package objectstore

import (
	"sync/atomic"
	"time"

	"sheepdog"
)

const (
	// localBits is how many families are told apart, roughly: two that share a bit are
	// taken for one.
	localBits = 1 << 16
	// localFor is how long a family counts as local after it was last used, at least; twice
	// that at most.
	localFor = 10 * time.Minute
)

// local is which families are served here, see Disk.Serving. It may have more.
type local struct {
	turns [2]localTurn
	turn  atomic.Uint32 // of turns: the present one
}

type localTurn [localBits / 64]atomic.Uint64

// Serving implements sheepdog.ServingEngine.
func (d *Disk) Serving(f sheepdog.FamilyID) { d.local.note(f) }

// note tells that a family is used here.
func (l *local) note(f sheepdog.FamilyID) {
	w, bit := l.turns[l.turn.Load()&1].word(f)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// has reports whether a family was used here lately.
func (l *local) has(f sheepdog.FamilyID) bool {
	for i := range l.turns {
		if w, bit := l.turns[i].word(f); w.Load()&bit != 0 {
			return true
		}
	}
	return false
}

func (t *localTurn) word(f sheepdog.FamilyID) (w *atomic.Uint64, bit uint64) {
	n := mix64(uint64(f)) % localBits
	return &t[n/64], 1 << (n % 64)
}

// forget begins a new turn: what was used in the last but one, and not since, is local
// no more.
func (l *local) forget() {
	next := &l.turns[(l.turn.Load()+1)&1]
	for i := range next {
		next[i].Store(0)
	}
	l.turn.Add(1)
}
