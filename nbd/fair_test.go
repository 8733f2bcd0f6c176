package nbd

import (
	"context"
	"testing"
	"time"
)

// fairRig is windows of connections under a clock of the test.
type fairRig struct {
	fair *fair
	now  time.Time
}

func newFairRig() *fairRig {
	r := &fairRig{now: time.Unix(1, 0)}
	r.fair = newFair(func() time.Time { return r.now })
	return r
}

func (r *fairRig) window(export string) *window {
	cfg := &Config{MaxRequests: 256, MaxConnectionBytes: 64 << 20, ReservedBytes: 64 << 20}
	return newWindow(cfg, newBudget(1), r.fair.join(export))
}

// fill admits requests until the window takes no more, and tells how many.
func fill(w *window, bytes int64) (n int) {
	for {
		if _, ok := w.tryAdmit(bytes); !ok {
			return n
		}
		n++
	}
}

func empty(w *window, n int, bytes int64) {
	for range n {
		w.leave(charge{bytes: bytes})
	}
}

// Bug: a disk with 64 writes in flight made one with a single write wait behind all
// of them, six times as long as alone.
func TestBusyExportsShareWhatIsInFlight(t *testing.T) {
	r := newFairRig()
	greedy := r.window("greedy")
	n := fill(greedy, 4096)
	if n != 256 {
		t.Fatalf("an export alone has %d requests in flight, want 256", n)
	}
	empty(greedy, n, 4096)
	modest := r.window("modest")
	if got := fill(greedy, 4096); got != 256 {
		t.Errorf("%d in flight beside one that asks for nothing, want 256", got)
	}
	empty(greedy, 256, 4096)

	one, ok := modest.tryAdmit(4096)
	if !ok {
		t.Fatal("the first request of an export is refused")
	}
	modest.leave(one)
	r.now = r.now.Add(recount)
	if got := fill(greedy, 4096); got != besideModest/2 {
		t.Errorf("%d in flight beside a busy export, want %d", got, besideModest/2)
	}
	if _, ok := modest.tryAdmit(4096); !ok {
		t.Error("a request is refused while only the other export is full")
	}
	r.now = r.now.Add(busyFor)
	if got := fill(greedy, 4096); got != 256-besideModest/2 {
		t.Errorf("%d more once the other is idle, want %d", got, 256-besideModest/2)
	}
}

// Connections of one export have one share, and each of many exports has something.
func TestSharesAreOfExportsNotConnections(t *testing.T) {
	r := newFairRig()
	a, b, other := r.window("disk"), r.window("disk"), r.window("other")
	busy := func() {
		if _, ok := other.tryAdmit(0); !ok {
			t.Fatal("refused")
		}
		other.leave(charge{})
		r.now = r.now.Add(recount)
	}
	busy()
	if got := fill(a, 1) + fill(b, 1); got != besideModest/2 {
		t.Errorf("two connections have %d in flight, want %d", got, besideModest/2)
	}
	empty(b, besideModest/4, 1)
	b.share.leave()
	busy()
	if got := fill(a, 1); got != besideModest/4 {
		t.Errorf("%d more after the other connection ended, want %d", got, besideModest/4)
	}
	for range 100 {
		if w := r.window(string(rune('a' + len(r.fair.shares)))); fill(w, 1) < leastRequests {
			t.Fatal("an export has less than the least")
		}
		r.now = r.now.Add(time.Microsecond)
	}
}

// Two exports that both ask for much have more in flight than beside one that asks
// for little.
func TestGreedyExportsShareMore(t *testing.T) {
	r := newFairRig()
	a, b := r.window("a"), r.window("b")
	empty(b, fill(b, 1), 1)
	r.now = r.now.Add(recount)
	if got := fill(a, 1); got != fairRequests/2 {
		t.Errorf("%d in flight beside another that asks for much, want %d", got, fairRequests/2)
	}
}

// Large requests count by their bytes; the first one always goes.
func TestSharesBoundBytes(t *testing.T) {
	r := newFairRig()
	greedy, modest := r.window("greedy"), r.window("modest")
	if _, ok := modest.tryAdmit(1); !ok {
		t.Fatal("refused")
	}
	r.now = r.now.Add(recount)
	if got := fill(greedy, 1<<20); got != 2 {
		t.Errorf("%d requests of 1 MiB, want 2", got)
	}
	empty(greedy, 2, 1<<20)
	if got := fill(greedy, 32<<20); got != 1 {
		t.Errorf("%d requests of 32 MiB, want 1", got)
	}
}

// Who waits for its share goes on when one of its requests leaves.
func TestWaitingForAShareEnds(t *testing.T) {
	r := newFairRig()
	greedy, modest := r.window("greedy"), r.window("modest")
	if _, ok := modest.tryAdmit(1); !ok {
		t.Fatal("refused")
	}
	r.now = r.now.Add(recount)
	fill(greedy, 1)
	admitted := make(chan error)
	go func() {
		_, err := greedy.admit(context.Background(), 1)
		admitted <- err
	}()
	greedy.leave(charge{bytes: 1})
	if err := <-admitted; err != nil {
		t.Error(err)
	}
	greedy.share.leave()
	modest.share.leave()
	if len(r.fair.shares) != 0 {
		t.Errorf("%d exports are known after all have left", len(r.fair.shares))
	}
}
