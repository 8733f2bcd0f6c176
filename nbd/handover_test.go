package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// descriptor passes a connection on as a process does: by its descriptor.
func descriptor(t *testing.T, nc net.Conn) net.Conn {
	t.Helper()
	f, err := nc.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer nc.Close()
	heir, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return heir
}

// passOn passes a transfer on as a process does.
func passOn(t *testing.T, tr Transfer) Transfer {
	t.Helper()
	b, err := json.Marshal(tr.State)
	if err != nil {
		t.Fatal(err)
	}
	next := Transfer{Conn: descriptor(t, tr.Conn)}
	if err := json.Unmarshal(b, &next.State); err != nil {
		t.Fatal(err)
	}
	return next
}

// adopt serves transfers by a new server until the end of the test.
func adopt(t *testing.T, e *memExports, transfers []Transfer) {
	t.Helper()
	s, err := New(Config{Exports: e})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, len(transfers))
	for _, tr := range transfers {
		tr = passOn(t, tr)
		go func() { ended <- s.Adopt(ctx, tr) }()
	}
	t.Cleanup(func() {
		cancel()
		for range transfers {
			if err := <-ended; err != nil {
				t.Errorf("Adopt: %v", err)
			}
		}
	})
}

// Connections survive the change of their server: what was in flight is
// answered by the old one, what was half sent by the new one.
func TestHandOver(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			both(t, func(t *testing.T, structured bool) { testHandOver(t, network, structured) })
		})
	}
}

func testHandOver(t *testing.T, network string, structured bool) {
	dev := newMemDevice(1 << 20)
	copy(dev.data, randomBytes(1<<20))
	dev.gate = make(chan struct{})
	g := newRig(t, dev)
	c := newClient(t, g.dialBy(network))
	if structured {
		c.mustOption(optStructuredReply, nil)
		c.structured = true
		c.mustOption(optSetMetaContext, metaPayload("disk", allocationContext))
	}
	c.attach("disk")
	h := header{cmd: cmdRead, length: 4096}
	old := c.send(h, nil)
	eventually(t, "the read runs", func() bool { return dev.running.Load() == 1 })

	second := header{cmd: cmdRead, cookie: 77, off: 8192, length: 4096}
	half := requestBytes(second, nil)
	c.write(half[:20])
	session := g.onlySession()
	go func() {
		eventually(t, "the session drains", session.draining.Load)
		close(dev.gate)
	}()
	transfers, err := g.server.HandOver(t.Context())
	if err != nil || len(transfers) != 1 {
		t.Fatalf("%d transfers, err %v", len(transfers), err)
	}
	if a := c.receive(func(uint64) header { return h }); a.cookie != old || a.errno != 0 {
		t.Fatalf("answer of the old server: %+v", a)
	}
	if n := g.exports.open.Load(); n != 0 {
		t.Errorf("%d devices are open between the servers", n)
	}
	adopt(t, g.exports, transfers)
	c.write(half[20:])
	if a := c.receive(func(uint64) header { return second }); a.cookie != 77 || !bytes.Equal(a.data, dev.bytes(8192, 4096)) {
		t.Fatalf("answer of the new server: cookie %d, errno %d", a.cookie, a.errno)
	}
	if a := c.do(header{cmd: cmdBlockStatus, length: 4096}, nil); (a.errno == 0) != structured {
		t.Errorf("block status: errno %d", a.errno)
	}
}

// A client that never pauses loses nothing either, whatever is in the buffers.
func TestHandOverUnderLoad(t *testing.T) {
	const n, request = 16 << 20, 64 << 10
	dev := newMemDevice(n)
	want := randomBytes(n)
	g := newRig(t, dev)
	c := g.connect("disk", true)
	handed := make(chan struct{})
	go func() {
		defer close(handed)
		eventually(t, "a quarter is written", func() bool { return !bytes.Equal(dev.bytes(n/4, 64), make([]byte, 64)) })
		transfers, err := g.server.HandOver(t.Context())
		if err != nil || len(transfers) != 1 {
			t.Errorf("%d transfers, err %v", len(transfers), err)
			c.nc.Close()
			return
		}
		adopt(t, g.exports, transfers)
	}()
	pipelined(c, cmdWrite, request, n, func(off, k int) []byte { return want[off : off+k] }, nil)
	<-handed
	if !bytes.Equal(dev.bytes(0, n), want) {
		t.Error("written bytes differ")
	}
	if n := g.exports.opened.Load(); n != 2 {
		t.Errorf("the export was opened %d times", n)
	}
}

// What cannot be handed over in time is cut and does not come late.
func TestHandOverTimesOut(t *testing.T) {
	dev := newMemDevice(1 << 20)
	dev.gate = make(chan struct{}) // never opens
	g := newRig(t, dev)
	idle, busy := g.connect("disk", true), g.connect("disk", true)
	busy.send(header{cmd: cmdRead, length: 4096}, nil)
	eventually(t, "the read runs", func() bool { return dev.running.Load() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	transfers, err := g.server.HandOver(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || len(transfers) != 1 {
		t.Fatalf("%d transfers, err %v", len(transfers), err)
	}
	adopt(t, g.exports, transfers)
	if a := idle.do(header{cmd: cmdWrite, length: 1}, []byte("x")); a.errno != 0 {
		t.Errorf("errno %d", a.errno)
	}
}

func TestAdoptRefuses(t *testing.T) {
	e := &memExports{t: t, devices: map[string]Device{}}
	s, err := New(Config{Exports: e})
	if err != nil {
		t.Fatal(err)
	}
	try := func(state TransferState) error {
		near, far := net.Pipe()
		defer near.Close()
		err := s.Adopt(t.Context(), Transfer{Conn: far, State: state})
		if _, werr := far.Write([]byte{0}); werr == nil {
			t.Error("connection is still open")
		}
		return err
	}
	if err := try(TransferState{Export: "gone"}); !errors.Is(err, ErrUnknownExport) {
		t.Errorf("unknown export: %v", err)
	}
	if err := try(TransferState{Unread: make([]byte, readBufferBytes+1)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("too much unread: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A server that stops leaves the connection to the next one.
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if err := s.Adopt(t.Context(), Transfer{Conn: far, State: TransferState{Export: "gone"}}); !errors.Is(err, ErrShutdown) {
		t.Errorf("stopping: %v", err)
	}
	go func() { _, _ = far.Write([]byte{7}) }()
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection was closed: %v", err)
	}
}

// A server that is stopped while it opens the export of a connection gives that
// back.
func TestAdoptIsInterrupted(t *testing.T) {
	opening := make(chan struct{})
	s, err := New(Config{Exports: slowExports{opening}})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	done := make(chan error, 1)
	go func() { done <- s.Adopt(t.Context(), Transfer{Conn: far, State: TransferState{Export: "slow"}}) }()
	<-opening
	if transfers, err := s.HandOver(t.Context()); err != nil || len(transfers) != 0 {
		t.Errorf("%v %v", transfers, err)
	}
	if err := <-done; !errors.Is(err, ErrShutdown) {
		t.Errorf("%v", err)
	}
	go func() { _, _ = far.Write([]byte{7}) }()
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Errorf("the connection was closed: %v", err)
	}
}

// slowExports say when somebody opens, who then waits until it is given up.
type slowExports struct{ opening chan struct{} }

func (e slowExports) Open(ctx context.Context, _ string, _ Info) (Device, error) {
	close(e.opening)
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (e slowExports) List(context.Context) ([]string, error) { return nil, nil }
