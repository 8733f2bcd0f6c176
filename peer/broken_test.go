package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
)

// reports collects what OnBroken tells.
type reports struct {
	mu  sync.Mutex
	all []*BrokenError
}

func (r *reports) add(e *BrokenError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *reports) take() []*BrokenError {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// stuck is a handler that answers nothing before its connection ends.
func stuck() *fakeHandler {
	return &fakeHandler{
		read: func(ctx context.Context, _ *sheepdog.ReadRequest) error {
			<-ctx.Done()
			return ctx.Err()
		},
		write: func(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			context.AfterFunc(ctx, func() {
				for i := range reqs {
					done(i, ctx.Err())
				}
			})
		},
	}
}

// pendingCalls leaves a read and a write in flight.
func pendingCalls(t *testing.T, c *Client) chan error {
	t.Helper()
	ended := make(chan error, 2)
	go func() {
		ended <- c.Read(context.Background(), &sheepdog.ReadRequest{Count: 1, Buf: make([]byte, 4096), States: make([]sheepdog.BlockState, 1)})
	}()
	c.Write(context.Background(), []*sheepdog.WriteRequest{writeRequest(nil, 1)}, func(_ int, err error) { ended <- err })
	synctest.Wait()
	time.Sleep(time.Second)
	synctest.Wait()
	if len(ended) != 0 {
		t.Fatalf("ended early: %v", <-ended)
	}
	return ended
}

// TestPendingCallsEnd breaks a connection in every way there is.
func TestPendingCallsEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		fault  func(*sim.Net, *testNode)
		reason Reason
		within time.Duration
	}{
		"killed":      {func(n *sim.Net, _ *testNode) { n.Kill("b") }, Reset, 10 * time.Millisecond},
		"closed":      {func(_ *sim.Net, b *testNode) { b.close() }, Reset, 10 * time.Millisecond},
		"frozen":      {func(n *sim.Net, _ *testNode) { n.Freeze("b") }, Silent, 2600 * time.Millisecond},
		"cut":         {func(n *sim.Net, _ *testNode) { n.Partition([]string{"a"}, []string{"b"}) }, Silent, 2600 * time.Millisecond},
		"cut from us": {func(n *sim.Net, _ *testNode) { n.Cut("a", "b") }, Reset, 2600 * time.Millisecond},
		"cut to us":   {func(n *sim.Net, _ *testNode) { n.Cut("b", "a") }, Silent, 2600 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := sim.NewNet(1, sim.NetOptions{})
				var seen reports
				c, node := simPair(t, n, stuck(), Options{OnBroken: seen.add})
				ended := pendingCalls(t, c)
				start := time.Now()
				tc.fault(n, node)
				for range 2 {
					err := <-ended
					wantError(t, err, sheepdog.ErrUnreachable)
					var b *BrokenError
					if !errors.As(err, &b) || b.Reason != tc.reason || b.Node != 2 {
						t.Errorf("ended with %v, want reason %s", err, tc.reason)
					}
				}
				if d := time.Since(start); d > tc.within {
					t.Errorf("noticed after %v, want %v", d, tc.within)
				}
				synctest.Wait()
				if got := seen.take(); len(got) != 1 || got[0].Reason != tc.reason || got[0].Node != 2 {
					t.Errorf("reports %v: want one, %s", got, tc.reason)
				}
				n.Thaw("b")
				n.HealAll()
			})
		})
	}
}

func TestClosingHereIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen reports
		c, _ := simPair(t, sim.NewNet(1, sim.NetOptions{}), stuck(), Options{OnBroken: seen.add})
		ended := pendingCalls(t, c)
		c.pool.Retain([]sheepdog.Member{{ID: 3}})
		for range 2 {
			err := <-ended
			wantError(t, err, sheepdog.ErrUnreachable)
			wantError(t, err, sheepdog.ErrClosed)
		}
		wantError(t, c.Flush(t.Context(), &sheepdog.FlushRequest{}), sheepdog.ErrClosed)
		wantError(t, writeAll(t, c, t.Context(), writeRequest(nil, 1))[0], sheepdog.ErrClosed)
		synctest.Wait()
		if got := seen.take(); len(got) != 0 {
			t.Errorf("reported %v", got)
		}
	})
}

// countingNetwork counts dials.
type countingNetwork struct {
	sheepdog.Network
	dials int
}

func (n *countingNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	n.dials++
	return n.Network.Dial(ctx, addr)
}

func TestRefusedDialsBackOffAndRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNet(1, sim.NetOptions{})
		network := &countingNetwork{Network: n.Host("a")}
		var seen reports
		c := startPool(t, network, Options{OnBroken: seen.add}).Client(sheepdog.Member{ID: 2, Incarnation: 22, Addr: "b:7000"})
		start := time.Now()
		for time.Since(start) < 10*time.Second {
			err := writeAll(t, c, t.Context(), writeRequest(nil, 1))[0]
			wantError(t, err, sheepdog.ErrUnreachable)
			var b *BrokenError
			if !errors.As(err, &b) || b.Reason != Refused {
				t.Fatalf("error %v, want refused", err)
			}
			time.Sleep(time.Millisecond)
		}
		if network.dials < 10 || network.dials > 16 {
			t.Errorf("%d dials in 10 s, want about 14", network.dials)
		}
		if got := len(seen.take()); got != network.dials {
			t.Errorf("%d reports of %d dials", got, network.dials)
		}
		startNode(t, n.Host("b"), ":7000", &fakeHandler{}, Options{})
		time.Sleep(time.Second)
		if err := writeAll(t, c, t.Context(), writeRequest(nil, 1))[0]; err != nil {
			t.Error(err)
		}
	})
}

// A node that was not to be reached for a while and then says something is called at
// once, whether the last dial has failed or hangs.
func TestNodeThatWasHeardOfIsDialledAtOnce(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		t.Run(fmt.Sprintf("hangs=%t", hangs), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := sim.NewNet(1, sim.NetOptions{})
				here := func(context.Context, sheepdog.NodeID, string, []byte) ([]byte, error) { return nil, nil }
				startNode(t, n.Host("b"), ":7000", &fakeHandler{control: here}, Options{})
				network := &deafNetwork{Network: n.Host("a"), fail: make(chan error)}
				p := startPool(t, network, Options{})
				network.deaf.Store(true)
				call := func() error {
					_, err := p.Call(t.Context(), "b:7000", "method", nil)
					return err
				}
				if hangs {
					go call()
					time.Sleep(time.Second)
				} else {
					for range 6 { // up to the longest pause
						go func() { network.fail <- syscall.EHOSTUNREACH }()
						wantError(t, call(), sheepdog.ErrUnreachable)
						time.Sleep(time.Second)
					}
					go func() { network.fail <- syscall.EHOSTUNREACH }()
					wantError(t, call(), sheepdog.ErrUnreachable)
				}
				network.deaf.Store(false)
				p.Redial("b:7000")
				start := time.Now()
				if err := call(); err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d > 100*time.Millisecond {
					t.Errorf("reached after %v", d)
				}
			})
		})
	}
}

// deafNetwork answers no dial while it is deaf, but with errors from fail.
type deafNetwork struct {
	sheepdog.Network
	deaf atomic.Bool
	fail chan error
}

func (n *deafNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if !n.deaf.Load() {
		return n.Network.Dial(ctx, addr)
	}
	select {
	case err := <-n.fail:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func TestReconnectsAtOnceAfterReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNet(1, sim.NetOptions{})
		c, node := simPair(t, n, &fakeHandler{}, Options{})
		if err := writeAll(t, c, t.Context(), writeRequest(nil, 1))[0]; err != nil {
			t.Fatal(err)
		}
		node.close()
		synctest.Wait()
		time.Sleep(time.Millisecond)
		startNode(t, n.Host("b"), ":7000", &fakeHandler{}, Options{})
		if err := writeAll(t, c, t.Context(), writeRequest(nil, 1))[0]; err != nil {
			t.Error(err)
		}
	})
}

// TestSlowDiskIsNotDeath: heartbeats come from beside the handler.
func TestSlowDiskIsNotDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			time.Sleep(time.Minute)
			for i := range reqs {
				done(i, nil)
			}
		}}
		c, _ := simPair(t, sim.NewNet(1, sim.NetOptions{}), h, Options{})
		if err := writeAll(t, c, t.Context(), writeRequest(blocks(1, 1), 1))[0]; err != nil {
			t.Error(err)
		}
	})
}

// TestUnreadBytesAreNoticed: a node that lives but does not read is given up.
func TestUnreadBytesAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHandler{write: func(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			time.Sleep(time.Minute)
			for i := range reqs {
				done(i, nil)
			}
		}}
		c, _ := simPair(t, sim.NewNet(1, sim.NetOptions{}), h, Options{})
		start := time.Now()
		reqs := make([]*sheepdog.WriteRequest, 16)
		for i := range reqs {
			reqs[i] = writeRequest(blocks(64, 1), 64)
		}
		for _, err := range writeAll(t, c, t.Context(), reqs...) {
			wantError(t, err, sheepdog.ErrUnreachable)
		}
		if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("given up after %v, want 10s", d)
		}
	})
}

func TestIdleAddressIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNet(1, sim.NetOptions{})
		release := make(chan struct{})
		h := &fakeHandler{control: func(_ context.Context, _ sheepdog.NodeID, method string, _ []byte) ([]byte, error) {
			if method == "slow" {
				<-release
			}
			return nil, nil
		}}
		_, node := simPair(t, n, h, Options{})
		p := startPool(t, n.Host("a"), Options{})
		slow := make(chan error, 1)
		go func() {
			_, err := p.Call(context.Background(), node.member.Addr, "slow", nil)
			slow <- err
		}()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(p.clients) != 1 {
			t.Fatal("a connection in use was closed")
		}
		close(release)
		if err := <-slow; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(p.clients) != 0 || len(node.server.sessions) != 0 {
			t.Errorf("%d clients, %d sessions after a minute without use", len(p.clients), len(node.server.sessions))
		}
	})
}

// TestCancelInTheMiddleOfAReply: the buffers are being filled when the node
// stops and the caller gives up; they are given back when the node is.
func TestCancelInTheMiddleOfAReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNet(1, sim.NetOptions{Latency: 10 * time.Millisecond})
		h := &fakeHandler{read: func(_ context.Context, r *sheepdog.ReadRequest) error {
			for i := range r.States {
				r.States[i] = sheepdog.Data
			}
			copy(r.Buf, blocks(int(r.Count), 1))
			return nil
		}}
		c, _ := simPair(t, n, h, Options{})
		_, err := c.bulk.acquire(t.Context(), true)
		wantError(t, err, nil)
		ctx, cancel := context.WithCancel(t.Context())
		req := &sheepdog.ReadRequest{Count: 1024, Buf: make([]byte, 4<<20), States: make([]sheepdog.BlockState, 1024)}
		start := time.Now()
		time.AfterFunc(80*time.Millisecond, func() { n.Freeze("b") })
		time.AfterFunc(200*time.Millisecond, cancel)
		err = c.Read(ctx, req)
		if d := time.Since(start); err == nil || d < 200*time.Millisecond || d > 3*time.Second {
			t.Errorf("ended after %v with %v", d, err)
		}
		if req.Buf[0] == 0 || req.Buf[len(req.Buf)-1] != 0 {
			t.Error("the reply was not cut in the middle: the test tests nothing")
		}
		clear(req.Buf)
		n.Thaw("b")
		time.Sleep(time.Second)
		synctest.Wait()
		for _, b := range req.Buf {
			if b != 0 {
				t.Fatal("written to after the call returned")
			}
		}
	})
}
