package peer

import (
	"context"
	"testing"
	"time"

	"sheepdog"
)

// hushedWrite has a write under way whose answer wakes nobody, and returns where its
// outcome comes.
func hushedWrite(t *testing.T, c *Client) <-chan error {
	t.Helper()
	if err := writeAll(t, c, testContext(t), writeRequest(blocks(1, 1), 1))[0]; err != nil { // connects
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	c.WriteHushed(context.Background(), []*sheepdog.WriteRequest{writeRequest(blocks(1, 1), 1)}, func(_ int, err error) { ended <- err })
	l := c.small.established()
	l.mu.Lock()
	hushed := l.hushed
	l.mu.Unlock()
	if !hushed {
		t.Skip("nothing can be hushed here")
	}
	return ended
}

func acknowledges() Handler {
	return &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
		for i := range reqs {
			done(i, nil)
		}
	}, flush: func(context.Context, *sheepdog.FlushRequest) error { return nil }}
}

func heard(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the answer to a hushed write was never noticed")
	}
}

// seldom is a client whose heartbeats do not come in time to help.
func seldom(t *testing.T) *Client {
	n := startNode(t, HostNetwork(), "127.0.0.1:0", acknowledges(), Options{Heartbeat: time.Hour})
	return startPool(t, HostNetwork(), Options{Heartbeat: time.Hour}).Client(n.member)
}

func TestHushedWriteIsHeardOnceSomebodyListens(t *testing.T) {
	c := seldom(t)
	ended := hushedWrite(t, c)
	select {
	case <-ended:
		t.Error("the answer was noticed although nobody listened")
	case <-time.After(30 * time.Millisecond):
	}
	c.Listen()
	heard(t, ended)
}

// Nobody's answer waits because another write is hushed.
func TestOtherRequestsEndTheHush(t *testing.T) {
	c := seldom(t)
	flush := func() error { return c.Flush(testContext(t), &sheepdog.FlushRequest{Fence: testFence}) }
	write := func() error { return writeAll(t, c, testContext(t), writeRequest(blocks(1, 2), 1))[0] }
	again := func() error {
		ended := make(chan error, 1)
		c.WriteHushed(context.Background(), []*sheepdog.WriteRequest{writeRequest(blocks(1, 2), 1)}, func(_ int, err error) { ended <- err })
		return <-ended
	}
	for name, other := range map[string]func() error{"a flush": flush, "a write": write, "a hushed write": again} {
		ended := hushedWrite(t, c)
		if err := other(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		heard(t, ended)
	}
}

func TestHeartbeatEndsTheHush(t *testing.T) {
	n := startNode(t, HostNetwork(), "127.0.0.1:0", acknowledges(), Options{Heartbeat: time.Hour})
	c := startPool(t, HostNetwork(), Options{Heartbeat: 20 * time.Millisecond, DeadAfter: time.Hour}).Client(n.member)
	heard(t, hushedWrite(t, c))
}

// The end of the connection is noticed at once.
func TestHushedLinkThatBreaksEnds(t *testing.T) {
	hushed := false
	h := &fakeHandler{write: func(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
		if !hushed {
			hushed = true // the next one
			done(0, nil)
			return
		}
		go func() { <-ctx.Done(); done(0, ctx.Err()) }()
	}}
	n := startNode(t, HostNetwork(), "127.0.0.1:0", h, Options{Heartbeat: time.Hour})
	ended := hushedWrite(t, startPool(t, HostNetwork(), Options{Heartbeat: time.Hour}).Client(n.member))
	n.server.Close()
	select {
	case err := <-ended:
		wantError(t, err, sheepdog.ErrUnreachable)
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the connection was not noticed")
	}
}
