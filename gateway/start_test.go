package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
)

// startAll starts writes of blocks 0 to n-1 and waits for the outcome of each.
func startAll(ctx context.Context, g *Gateway, n int) []error {
	var reqs []*sheepdog.WriteRequest
	for i := range n {
		r := writeRequest(uint64(i+1), byte(i+1))
		r.Start = sheepdog.BlockNo(i)
		reqs = append(reqs, r)
	}
	out := make([]error, n)
	var wg sync.WaitGroup
	wg.Add(n)
	var mu sync.Mutex
	seen := make(map[int]bool)
	g.Start(ctx, reqs, func(i int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if seen[i] {
			panic(fmt.Sprintf("write %d ended twice", i))
		}
		seen[i], out[i] = true, err
		wg.Done()
	})
	wg.Wait()
	return out
}

// What Start acknowledges is where Write would have put it.
func TestStartedWritesReachEveryReplica(t *testing.T) {
	c := newCluster(1, 2, 3, 4)
	c.publish(1, sheepdog.Clean, ids(1, 2), ids(1, 2, 3))
	for i, err := range startAll(t.Context(), c.gateway(), 20) {
		if err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	for id := sheepdog.NodeID(1); id <= 3; id++ {
		for b := sheepdog.BlockNo(0); b < 20; b++ {
			if d := c.nodes[id].data[b]; d == nil || d[0] != byte(b+1) {
				t.Fatalf("node %d lacks block %d", id, b)
			}
		}
	}
	if n := len(c.nodes[4].writes); n != 0 {
		t.Errorf("a node outside the placement got %d writes", n)
	}
}

func TestStartedWriteWaitsForTheSlowestReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(1, 2, 3)
		c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
		gate := make(chan struct{})
		c.nodes[2].gate = gate
		acked := make(chan []error, 1)
		go func() { acked <- startAll(t.Context(), c.gateway(), 3) }()
		synctest.Wait()
		select {
		case <-acked:
			t.Fatal("acknowledged before node 2 had it")
		default:
		}
		close(gate)
		for _, err := range <-acked {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// A replica is lost, and a partition moves, under started writes: they go out
// again in the newer view with the same stamps.
func TestStartedWriteIsFinishedInALaterView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(1, 2, 3)
		c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
		c.nodes[3].fail = func(string) error { return sheepdog.ErrUnreachable }
		acked := make(chan []error, 1)
		go func() { acked <- startAll(t.Context(), c.gateway(), 3) }()
		time.Sleep(10 * time.Second)
		select {
		case <-acked:
			t.Fatal("acknowledged without an acting replica")
		default:
		}
		if got := c.suspected(); len(got) == 0 || got[0] != 3 {
			t.Fatalf("suspected %v, want node 3", got)
		}
		c.nodes[2].gate = make(chan struct{})
		c.publish(2, sheepdog.Clean, ids(1, 2), ids(1, 2))
		synctest.Wait()
		c.publish(3, sheepdog.Clean, ids(1, 2), ids(1, 2)) // acks of the interval before do not count
		close(c.nodes[2].gate)
		for i, err := range <-acked {
			if err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		}
		for _, w := range c.nodes[2].writes {
			if w.Stamp.Seq != uint64(w.Start)+1 {
				t.Errorf("block %d was sent with stamp %v", w.Start, w.Stamp)
			}
		}
		if last := c.nodes[2].writes[len(c.nodes[2].writes)-1]; last.Revision != 3 {
			t.Errorf("the last attempt is of revision %d, want 3", last.Revision)
		}
	})
}

func TestStartedWriteThatIsFencedEnds(t *testing.T) {
	c := newCluster(1, 2, 3)
	c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
	c.nodes[2].fail = func(string) error { return sheepdog.ErrFenced }
	for i, err := range startAll(t.Context(), c.gateway(), 4) {
		if !errors.Is(err, sheepdog.ErrFenced) {
			t.Errorf("write %d: %v, want ErrFenced", i, err)
		}
	}
}

// Where the partition cannot serve, started writes wait as others do.
func TestStartedWriteWaitsForACleanPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(1, 2, 3)
		c.publish(1, sheepdog.Unclean, ids(1, 2, 3), ids(1, 2, 3))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, err := range startAll(ctx, c.gateway(), 2) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want to wait", err)
			}
		}
		if n := len(c.nodes[1].writes); n != 0 {
			t.Errorf("%d writes were sent", n)
		}
	})
}

// answering acknowledges at once and keeps nothing.
type answering struct{ sheepdog.Replica }

func (answering) Write(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	for i := range reqs {
		done(i, nil)
	}
}

type answeringPeers struct{}

func (answeringPeers) Replica(sheepdog.Member) sheepdog.Replica { return answering{} }

// The cost of the fan-out alone must stay a few allocations per batch.
func TestStartAllocatesPerBatchNotPerWrite(t *testing.T) {
	c := newCluster(1, 2, 3)
	c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
	g := New(1, c, answeringPeers{}, func(sheepdog.Member) {}, DefaultTiming(), nil)
	cost := func(n int) float64 {
		var reqs []*sheepdog.WriteRequest
		for i := range n {
			reqs = append(reqs, writeRequest(uint64(i+1), 1))
		}
		done := func(int, error) {}
		return testing.AllocsPerRun(100, func() { g.Start(context.Background(), reqs, done) })
	}
	if one, many := cost(1), cost(64); many > one+8 || one > 24 {
		t.Errorf("%.0f allocations for one write, %.0f for 64", one, many)
	}
}

func BenchmarkStart(b *testing.B) {
	c := newCluster(1, 2, 3)
	c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
	g := New(1, c, answeringPeers{}, func(sheepdog.Member) {}, DefaultTiming(), nil)
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			var reqs []*sheepdog.WriteRequest
			for i := range n {
				reqs = append(reqs, writeRequest(uint64(i+1), 1))
			}
			b.ReportAllocs()
			for range b.N {
				g.Start(context.Background(), reqs, func(int, error) {})
			}
		})
	}
}

// later answers from other goroutines, in another order, and fails some.
type later struct {
	sheepdog.Replica
	id   sheepdog.NodeID
	wg   *sync.WaitGroup
	seen *sync.Map // of stamps to how many replicas had the write
}

func (l later) Write(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	for i := len(reqs) - 1; i >= 0; i-- {
		l.wg.Go(func() {
			n, _ := l.seen.LoadOrStore(reqs[i].Stamp, new(atomic.Int32))
			n.(*atomic.Int32).Add(1)
			if reqs[i].Stamp.Seq%5 == 0 && l.id == 2 {
				done(i, sheepdog.ErrFenced)
				return
			}
			done(i, nil)
		})
	}
}

type laterPeers struct{ later }

func (p laterPeers) Replica(m sheepdog.Member) sheepdog.Replica {
	l := p.later
	l.id = m.ID
	return l
}

// Batches are used again: no write may get the answer to another.
func TestStartedBatchesDoNotMixTheirAnswers(t *testing.T) {
	c := newCluster(1, 2, 3)
	c.publish(1, sheepdog.Clean, ids(1, 2, 3), ids(1, 2, 3))
	var wg sync.WaitGroup
	p := laterPeers{later{wg: &wg, seen: new(sync.Map)}}
	g := New(1, c, p, func(sheepdog.Member) {}, DefaultTiming(), nil)
	var seq atomic.Uint64
	var clients sync.WaitGroup
	for k := range 4 {
		clients.Go(func() {
			for round := range 300 {
				reqs := make([]*sheepdog.WriteRequest, 1+(round+k)%7)
				for i := range reqs {
					reqs[i] = writeRequest(seq.Add(1), 1)
				}
				var ended sync.WaitGroup
				ended.Add(len(reqs))
				g.Start(t.Context(), reqs, func(i int, err error) {
					defer ended.Done()
					if n, _ := p.seen.Load(reqs[i].Stamp); n.(*atomic.Int32).Load() != 3 {
						t.Error("a write ended before all replicas had it")
					}
					if want := reqs[i].Stamp.Seq%5 == 0; errors.Is(err, sheepdog.ErrFenced) != want {
						t.Errorf("write %v: %v", reqs[i].Stamp, err)
					}
				})
				ended.Wait()
			}
		})
	}
	clients.Wait()
	wg.Wait()
}
