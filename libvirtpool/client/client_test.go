package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
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
		conn, err := l.Accept()
		if err != nil {
			return
		}
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
	})
	c, err := Dial(t.Context(), l.Addr().String(), "qemu:///system")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); l.Close(); wg.Wait() })
	return c
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
	if err := c.Download(t.Context(), rpc.VolumeDownload, nil, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("a broken connection is used: %v", err)
	}
}
