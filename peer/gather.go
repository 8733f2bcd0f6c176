package peer

const (
	// gatherBytes is how many queued bytes nobody waits with for more.
	gatherBytes = 128 << 10
	// maxShy is up to how many times, as a power of two, gathering is left out after
	// it brought nothing.
	maxShy = 6
)

// gathering has the writes of several clients leave together. Each client's are put
// into the queue by a goroutine of its own; when several have become runnable at once,
// the first would send its own alone, at the price of a system call and a wake-up here
// and as much at the far end and for the answer. So it lets the others run once before
// it sends. Where that brings nothing it is mostly left out.
type gathering struct {
	yield func() // runtime.Gosched

	// Guarded by the queue's lock.
	on   bool   // somebody has yielded and is going to send
	puts uint64 // frames ever queued
	shy  uint   // how often in a row it brought nothing
	skip int    // so many times it is left out
}

// sendGatheredAndUnlock is sendAndUnlock; with others, who wait for answers from the far
// end and so may be about to send more, it gathers first.
func (q *outQueue) sendGatheredAndUnlock(others bool) {
	if others && q.worthGathering() {
		q.gather()
	}
	q.sendAndUnlock()
}

// worthGathering also counts the times that it is left out; mu is held.
func (q *outQueue) worthGathering() bool {
	g := &q.gathering
	if g.on || q.busy || q.corks.Load() > 0 || q.fill.empty() || q.err != nil {
		return false // somebody else sends what is queued, or nothing is
	}
	if q.fill.bytes >= gatherBytes {
		return false
	}
	if g.skip > 0 {
		g.skip--
		return false
	}
	return true
}

// gather yields and learns from what came of it. It is called with mu held, and
// returns with it.
func (q *outQueue) gather() {
	g := &q.gathering
	before := g.puts
	g.on = true
	q.mu.Unlock()
	g.yield()
	q.mu.Lock()
	g.on = false
	if g.puts > before {
		g.shy = 0
		return
	}
	g.shy = min(g.shy+1, maxShy)
	g.skip = 1<<g.shy - 1
}

// holdsBack reports whether what is queued is left to the one who gathers; mu is held.
func (g *gathering) holdsBack(queued int) bool { return g.on && queued < gatherBytes }
