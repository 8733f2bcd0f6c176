package nbd

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long tests wait for what must happen.
const patience = 10 * time.Second

// rig is a server on a unix socket that ends with its test.
type rig struct {
	t       testing.TB
	server  *Server
	exports *memExports
	path    string
}

// newRig serves dev as export "disk".
func newRig(t testing.TB, dev Device, change ...func(*Config)) *rig {
	t.Helper()
	e := &memExports{t: t, devices: map[string]Device{"disk": dev}, names: []string{"disk"}}
	return newRigOf(t, e, change...)
}

func newRigOf(t testing.TB, e *memExports, change ...func(*Config)) *rig {
	t.Helper()
	cfg := Config{Exports: e, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, server: s, exports: e, path: filepath.Join(t.TempDir(), "nbd.sock")}
	l, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the listeners' cleanups
		if n := e.open.Load(); n != 0 {
			t.Errorf("%d devices were not closed", n)
		}
	})
	g.serve(l)
	return g
}

// serve serves a listener until the end of the test.
func (g *rig) serve(l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.server.Serve(ctx, l) }()
	g.t.Cleanup(func() {
		cancel()
		select {
		case <-served:
		case <-time.After(patience):
			g.t.Error("Serve does not end")
		}
	})
}

func (g *rig) uri(name string) string { return "nbd+unix:///" + name + "?socket=" + g.path }

// dial connects without a handshake.
func (g *rig) dial() net.Conn {
	g.t.Helper()
	nc, err := net.Dial("unix", g.path)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

// eventually waits for what has no event to wait on.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}
