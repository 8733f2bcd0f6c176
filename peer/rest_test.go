package peer

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
)

// Between many nodes connections that nobody uses are closed, and made again when
// somebody does; between few they stay, for they tell when a process is gone.
func TestIdleConnectionsOfManyNodesAreClosed(t *testing.T) {
	for _, tt := range []struct {
		name         string
		nodes        int
		stays        int // connections after a while
		dialsForMore int
	}{{"few", meshNodes, 1, 0}, {"many", meshNodes + 1, 0, 1}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := sim.NewNet(1, sim.NetOptions{})
				node := startNode(t, n.Host("b"), ":7000", &fakeHandler{flush: func(context.Context, *sheepdog.FlushRequest) error { return nil }}, Options{})
				network, seen := &countingNetwork{Network: n.Host("a")}, new(reports)
				pool := startPool(t, network, Options{OnBroken: seen.add})
				for i := 1; i < tt.nodes; i++ {
					pool.Client(sheepdog.Member{ID: sheepdog.NodeID(100 + i), Incarnation: 1, Addr: "nowhere:7000"})
				}
				flush := func() {
					t.Helper()
					if err := pool.Client(node.member).Flush(t.Context(), &sheepdog.FlushRequest{}); err != nil {
						t.Fatal(err)
					}
				}
				flush()
				for range 100 { // a connection in use stays
					time.Sleep(time.Second)
					flush()
				}
				if network.dials != 1 {
					t.Fatalf("%d dials for one connection", network.dials)
				}
				time.Sleep(time.Minute)
				node.server.mu.Lock()
				stays := len(node.server.sessions)
				node.server.mu.Unlock()
				if stays != tt.stays {
					t.Errorf("%d connections are there after a minute without use, want %d", stays, tt.stays)
				}
				flush()
				if more := network.dials - 1; more != tt.dialsForMore {
					t.Errorf("%d more dials, want %d", more, tt.dialsForMore)
				}
				if got := seen.take(); len(got) > 0 {
					t.Errorf("reported as broken: %v", got)
				}
			})
		})
	}
}
