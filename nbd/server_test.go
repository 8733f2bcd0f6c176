package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Shutdown ends idle connections and handshakes at once, answers what is in
// flight first, and lets nobody in.
func TestShutdown(t *testing.T) {
	dev := newMemDevice(1 << 20)
	dev.gate = make(chan struct{})
	g := newRig(t, dev)
	idle, half, busy := g.connect("disk", true), g.hello(), g.connect("disk", true)
	h := header{cmd: cmdRead, length: 4096}
	cookie := busy.send(h, nil)
	eventually(t, "the read runs", func() bool { return dev.running.Load() == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- g.server.Shutdown(t.Context()) }()
	idle.ended()
	half.ended()
	select {
	case err := <-stopped:
		t.Fatalf("Shutdown returned %v with a request in flight", err)
	default:
	}
	close(dev.gate)
	if a := busy.receive(func(uint64) header { return h }); a.cookie != cookie || a.errno != 0 {
		t.Errorf("answer %+v", a)
	}
	busy.ended()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("unix", g.path); err == nil {
		t.Error("still listening")
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "again"))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.server.Serve(t.Context(), l); !errors.Is(err, ErrShutdown) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
	if err := g.server.Shutdown(t.Context()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

// onlySession is the session of the rig's one connection, nil before it begins.
func (g *rig) onlySession() *session {
	g.server.mu.Lock()
	defer g.server.mu.Unlock()
	for c := range g.server.conns {
		return c.session
	}
	return nil
}

// A write whose payload is on its way is taken in before the end.
func TestShutdownMidWrite(t *testing.T) {
	dev := newMemDevice(1 << 20)
	g := newRig(t, dev)
	c := g.connect("disk", true)
	whole := requestBytes(header{cmd: cmdWrite, length: 8192}, randomBytes(8192))
	c.write(whole[:5000])
	var s *session
	eventually(t, "the session begins", func() bool {
		s = g.onlySession()
		return s != nil
	})
	eventually(t, "the payload is being read", s.payload.active.Load)
	stopped := make(chan error, 1)
	go func() { stopped <- g.server.Shutdown(t.Context()) }()
	eventually(t, "the session drains", s.draining.Load)
	c.write(whole[5000:])
	if a := c.receive(func(uint64) header { return header{cmd: cmdWrite} }); a.errno != 0 {
		t.Errorf("errno %d", a.errno)
	}
	c.ended()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A Shutdown whose time is up cancels what is in flight.
func TestShutdownCuts(t *testing.T) {
	dev := newMemDevice(1 << 20)
	dev.gate = make(chan struct{}) // never opens
	g := newRig(t, dev)
	c := g.connect("disk", true)
	c.send(header{cmd: cmdRead, length: 4096}, nil)
	eventually(t, "the read runs", func() bool { return dev.running.Load() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := io.Copy(io.Discard, c.r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("connection is silent, not closed")
	}
	if err := g.server.Shutdown(t.Context()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

// Closing a listener harms no connection that came through it.
func TestListenerHandOver(t *testing.T) {
	e := &memExports{t: t, devices: map[string]Device{"disk": newMemDevice(1 << 20)}}
	s, err := New(Config{Exports: e})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	f, err := l.(*net.UnixListener).File() // as another process would get it
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	served := make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), l) }()
	g := &rig{t: t, server: s, exports: e, path: path}
	c := g.connect("disk", true)
	l.Close()

	heir, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	next, err := New(Config{Exports: e})
	if err != nil {
		t.Fatal(err)
	}
	(&rig{t: t, server: next, exports: e}).serve(heir)
	g.alive() // by the heir
	if a := c.do(header{cmd: cmdRead, length: 4096}, nil); a.errno != 0 {
		t.Errorf("errno %d", a.errno)
	}
	select {
	case err := <-served:
		t.Fatalf("Serve returned %v with a connection left", err)
	default:
	}
	c.send(header{cmd: cmdDisc}, nil)
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// flakyListener fails a few times as a process without descriptors does.
type flakyListener struct {
	*pipeListener
	failures int
}

type temporaryError struct{}

func (temporaryError) Error() string   { return "too many open files" }
func (temporaryError) Temporary() bool { return true }

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, temporaryError{}
	}
	return l.pipeListener.Accept()
}

func TestAcceptTriesAgain(t *testing.T) {
	s, err := New(Config{Exports: &memExports{t: t}})
	if err != nil {
		t.Fatal(err)
	}
	l := &flakyListener{newPipeListener(), 3}
	served := make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), l) }()
	newClient(t, l.dial()).mustOption(optAbort, nil)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
