package peer

import (
	"context"
	"testing"

	"sheepdog"
)

// startFlush runs a StartFlush and waits for its outcome; started is false where the
// client leaves it to Flush.
func startFlush(ctx context.Context, c *Client, req *sheepdog.FlushRequest) (started bool, err error) {
	done := make(chan error, 1)
	if !c.StartFlush(ctx, req, func(err error) { done <- err }) {
		return false, nil
	}
	return true, <-done
}

// What StartFlush tells is what Flush tells, of the same request.
func TestStartFlushIsFlush(t *testing.T) {
	want := sheepdog.FlushRequest{Fence: testFence, Family: 3, Flushed: 4}
	for network, pair := range map[string]pairFunc{"loopback": pair, "simulated": simulatedPair} {
		t.Run(network, func(t *testing.T) {
			var answer error
			arrived := 0
			c := pair(t, &fakeHandler{flush: func(_ context.Context, r *sheepdog.FlushRequest) error {
				arrived++
				if *r != want {
					t.Errorf("another flush arrived: %+v", r)
				}
				return answer
			}})
			if started, _ := startFlush(testContext(t), c, &want); started {
				t.Fatal("a flush was begun without a connection")
			}
			for _, answer = range []error{nil, sheepdog.ErrStale, sheepdog.ErrFenced, sheepdog.ErrNoSpace, nil} {
				slow := c.Flush(testContext(t), &want)
				started, quick := startFlush(testContext(t), c, &want)
				if !started {
					t.Fatal("a flush is not begun on a connection that stands")
				}
				if (slow == nil) != (quick == nil) || slow != nil && slow.Error() != quick.Error() {
					t.Errorf("StartFlush: %v, Flush: %v", quick, slow)
				}
				if answer != nil {
					wantError(t, quick, answer)
				}
			}
			if arrived != 10 {
				t.Errorf("%d flushes arrived, want 10", arrived)
			}
			if !c.budgets[classFlush].TryAcquire(callBudget) {
				t.Error("the budget of flushes did not come back")
			}
		})
	}
}

// A flush that was begun ends when its context or the connection does.
func TestStartedFlushEnds(t *testing.T) {
	entered := make(chan struct{})
	h := &fakeHandler{flush: func(ctx context.Context, r *sheepdog.FlushRequest) error {
		if r.Family == 0 {
			return nil // of the connection
		}
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	n := startNode(t, HostNetwork(), "127.0.0.1:0", h, Options{})
	c := startPool(t, HostNetwork(), Options{}).Client(n.member)
	if err := c.Flush(testContext(t), &sheepdog.FlushRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	go func() { <-entered; cancel() }()
	started, err := startFlush(ctx, c, &sheepdog.FlushRequest{Family: 1})
	if !started {
		t.Fatal("context: not begun")
	}
	wantError(t, err, sheepdog.ErrUnreachable)
	go func() { <-entered; c.pool.Retain(nil) }()
	started, err = startFlush(testContext(t), c, &sheepdog.FlushRequest{Family: 1})
	if !started {
		t.Fatal("connection: not begun")
	}
	wantError(t, err, sheepdog.ErrUnreachable)
	if !c.budgets[classFlush].TryAcquire(callBudget) {
		t.Error("the budget of flushes did not come back")
	}
}
