package client

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"sheepdog/libvirtpool/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial connects to a daemon that answers every call by f, which gets the messages
// of the client and sends its own.
func dial(t *testing.T, f func(m *rpc.Message, send func(t rpc.Type, s rpc.Status, payload []byte))) *Conn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { answer(conn, f) })
		}
	})
	c, err := Dial(t.Context(), l.Addr().String(), "qemu:///system")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); l.Close(); wg.Wait() })
	return c
}

func answer(conn net.Conn, f func(m *rpc.Message, send func(t rpc.Type, s rpc.Status, payload []byte))) {
	defer conn.Close()
	for {
		m, err := rpc.ReadMessage(conn)
		if err != nil {
			return
		}
		f(m, func(typ rpc.Type, s rpc.Status, payload []byte) {
			h := m.Header
			h.Type, h.Status = typ, s
			_, _ = rpc.NewMessage(h, payload).WriteTo(conn)
		})
	}
}

// libvirtd may send data of a stream before it has replied to the call: a copy
// from another pool lost its beginning.
func TestDataBeforeTheReply(t *testing.T) {
	c := dial(t, func(m *rpc.Message, send func(rpc.Type, rpc.Status, []byte)) {
		switch {
		case m.Procedure != rpc.VolumeDownload:
			send(rpc.Reply, rpc.OK, nil)
		case m.Type == rpc.Call:
			send(rpc.Stream, rpc.Continue, []byte("the "))
			send(rpc.Reply, rpc.OK, nil)
			send(rpc.Stream, rpc.Continue, []byte("data"))
			send(rpc.Stream, rpc.Continue, nil)
		default:
			send(rpc.Stream, rpc.OK, nil)
		}
	})
	for range 2 {
		var got bytes.Buffer
		if err := c.Download(t.Context(), rpc.VolumeDownload, nil, &got); err != nil || got.String() != "the data" {
			t.Fatalf("%q %v", got.String(), err)
		}
	}
	if _, err := c.Call(t.Context(), rpc.ConnectHostname, nil); err != nil {
		t.Error(err)
	}
}

// An upload that libvirtd refuses in the middle says why, and the connection is as
// good as before.
func TestUploadThatFails(t *testing.T) {
	full := rpc.Errorf(rpc.CodeFailed, "the disk is full")
	c := dial(t, func(m *rpc.Message, send func(rpc.Type, rpc.Status, []byte)) {
		switch {
		case m.Type == rpc.Call:
			send(rpc.Reply, rpc.OK, nil)
		case m.Status == rpc.OK:
			send(rpc.Stream, rpc.Failed, full.Encode())
		}
	})
	err := c.Upload(t.Context(), rpc.VolumeUpload, nil, func(s *Sink) error {
		return errors.Join(s.Data([]byte("x")), s.Hole(5))
	})
	if e := rpc.AsError(err); e.Code != rpc.CodeFailed || e.Error() != full.Error() {
		t.Errorf("%v", err)
	}
	if _, err := c.Call(t.Context(), rpc.ConnectHostname, nil); err != nil {
		t.Error(err)
	}
}

// What breaks a stream breaks the connection: half of it may have been sent.
func TestBrokenStreams(t *testing.T) {
	c := dial(t, func(m *rpc.Message, send func(rpc.Type, rpc.Status, []byte)) {
		if m.Type == rpc.Call {
			send(rpc.Reply, rpc.OK, nil)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Upload(ctx, rpc.VolumeUpload, nil, func(*Sink) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := c.Call(t.Context(), rpc.ConnectHostname, nil); err != nil {
		t.Errorf("after a stream that broke: %v", err)
	}
}

// A call that was given up, or a libvirtd that was restarted, made a connection useless
// for ever: a program that had one for its pool had to open that again.
func TestConnectionIsMadeAgain(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := dial(t, func(m *rpc.Message, send func(rpc.Type, rpc.Status, []byte)) {
		if m.Procedure == rpc.DomainCreate {
			cancel() // and there is no answer
			return
		}
		send(rpc.Reply, rpc.OK, nil)
	})
	if _, err := c.Call(ctx, rpc.DomainCreate, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v", err)
	}
	for range 2 {
		if _, err := c.Call(t.Context(), rpc.ConnectHostname, nil); err != nil {
			t.Errorf("the next call: %v", err)
		}
		c.conn.Close() // as when libvirtd ends; the call that finds it fails
		_, _ = c.Call(t.Context(), rpc.ConnectHostname, nil)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Call(t.Context(), rpc.ConnectHostname, nil); err == nil {
		t.Error("a connection that was closed is made again")
	}
}

// Two goroutines with one connection: the data of a stream went to the call of another.
func TestCallsWaitForStreams(t *testing.T) {
	c := dial(t, func(m *rpc.Message, send func(rpc.Type, rpc.Status, []byte)) {
		switch {
		case m.Type == rpc.Call:
			send(rpc.Reply, rpc.OK, nil)
			if m.Procedure == rpc.VolumeDownload {
				send(rpc.Stream, rpc.Continue, []byte("data"))
				send(rpc.Stream, rpc.Continue, nil)
			}
		default:
			send(rpc.Stream, rpc.OK, nil)
		}
	})
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for range 200 {
				var got bytes.Buffer
				if err := c.Download(t.Context(), rpc.VolumeDownload, nil, &got); err != nil || got.String() != "data" {
					t.Errorf("%q %v", got.String(), err)
					return
				}
			}
		})
	}
	calls.Wait()
}

// A connection that is made again speaks for whom it spoke before, and not for this
// process, who may do everything.
func TestConnectionThatIsMadeAgainSpeaksForTheSame(t *testing.T) {
	var mu sync.Mutex
	var calls []rpc.Procedure
	c := dial(t, func(m *rpc.Message, send func(rpc.Type, rpc.Status, []byte)) {
		mu.Lock()
		calls = append(calls, m.Procedure)
		mu.Unlock()
		send(rpc.Reply, rpc.OK, nil)
	})
	if err := c.Identify(t.Context(), []byte{0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	c.conn.Close()
	_, _ = c.Call(t.Context(), rpc.ConnectHostname, nil) // finds it broken
	if _, err := c.Call(t.Context(), rpc.ConnectHostname, nil); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []rpc.Procedure{rpc.AuthList, rpc.ConnectOpen, rpc.ConnectSetIdentity, rpc.AuthList, rpc.ConnectOpen, rpc.ConnectSetIdentity, rpc.ConnectHostname}
	if !slices.Equal(calls, want) {
		t.Errorf("libvirtd got %v, want %v", calls, want)
	}
}
