package peer

import (
	"net"
	"testing"
)

// queueToNobody is a queue of which nothing leaves at once: its batches wait for run.
func queueToNobody(t *testing.T) *outQueue {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return newOutQueue(near, nil)
}

// putCorked queues a frame as putWrites does.
func putCorked(t *testing.T, q *outQueue, size int, others bool) {
	t.Helper()
	q.cork()
	f := &frame{kind: kindPing, data: [][]byte{make([]byte, size)}}
	f.seal()
	if err := q.put(f); err != nil {
		t.Fatal(err)
	}
	q.mu.Lock()
	q.corks.Add(-1)
	q.sendGatheredAndUnlock(others)
}

// sending is how many bytes the batch has that is being sent, headers included.
func (q *outQueue) sending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cur == nil {
		return 0
	}
	return q.cur.bytes
}

// What others queue while the first one yields leaves with its frame.
func TestWritesOfSeveralClientsLeaveTogether(t *testing.T) {
	q := queueToNobody(t)
	yields := 0
	q.gathering.yield = func() {
		yields++
		for range 3 {
			putCorked(t, q, 1000, true)
		}
		if n := q.sending(); n != 0 {
			t.Errorf("%d bytes are being sent while somebody gathers", n)
		}
	}
	putCorked(t, q, 1000, true)
	if want := 4 * (headerSize + 1000); yields != 1 || q.sending() != want {
		t.Errorf("%d yields, then %d bytes are sent, want 1 and %d", yields, q.sending(), want)
	}
}

// Nobody waits for the one who yielded once much is queued.
func TestMuchIsSentWhileSomebodyGathers(t *testing.T) {
	q := queueToNobody(t)
	sent := 0
	q.gathering.yield = func() {
		putCorked(t, q, gatherBytes, true)
		sent = q.sending()
	}
	putCorked(t, q, 1000, true)
	if want := 2*headerSize + gatherBytes + 1000; sent != want {
		t.Errorf("%d bytes are sent before the first one runs again, want %d", sent, want)
	}
}

// What is much by itself waits for nothing.
func TestMuchIsSentAtOnce(t *testing.T) {
	q := queueToNobody(t)
	q.gathering.yield = func() { t.Error("it yields") }
	putCorked(t, q, gatherBytes, true)
	if q.sending() == 0 {
		t.Error("nothing is sent")
	}
}

// emptied has what was sent be gone, as run would.
func (q *outQueue) emptied() {
	select {
	case <-q.kick:
		q.mu.Lock()
		for q.nextBatch() {
		}
		q.mu.Unlock()
	default:
	}
}

// A lone write never yields, nor one whose predecessors found out that it brings
// nothing, except now and then; once it brings something again all do.
func TestYieldsThatBringNothingStop(t *testing.T) {
	q := queueToNobody(t)
	yields := 0
	alone := func() { yields++ }
	q.gathering.yield = alone
	put := func(n int, others bool) int {
		yields = 0
		for range n {
			putCorked(t, q, 1000, others)
			q.emptied()
		}
		return yields
	}
	if n := put(100, false); n != 0 {
		t.Errorf("%d yields of writes that nobody is beside", n)
	}
	if n := put(1<<maxShy*3, true); n == 0 || n > 2*maxShy {
		t.Errorf("%d yields that bring nothing in %d writes", n, 1<<maxShy*3)
	}
	q.gathering.yield = func() {
		yields++
		putCorked(t, q, 1000, true)
	}
	put(1<<maxShy, true)
	if n := put(10, true); n != 10 {
		t.Errorf("%d yields in 10 writes that have company", n)
	}
}

// A connection that ends while somebody gathers takes nothing more.
func TestConnectionEndsWhileSomebodyGathers(t *testing.T) {
	q := queueToNobody(t)
	q.gathering.yield = func() { q.close(net.ErrClosed) }
	putCorked(t, q, 1000, true)
	if n := q.sending(); n != 0 {
		t.Errorf("%d bytes are sent on a closed connection", n)
	}
	q.finish()
	if n, _ := q.state(); n != 0 {
		t.Errorf("%d bytes are still queued", n)
	}
}
