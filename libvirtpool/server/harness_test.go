package server

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
	"sheepdog/libvirtpool/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server on sockets in a directory of the test, and its cluster.
type world struct {
	t       *testing.T
	cluster *storagetest.Cluster
	driver  *storage.Driver
	path    string // of the socket; path + "-ro" is the read-only one
	srv     *Server
	stop    func() // ends the server, and waits for it
}

// start makes a server that ends with the test, and looks that nothing of it is
// left.
func start(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, cluster: storagetest.New(), path: filepath.Join(t.TempDir(), "s")}
	var err error
	if w.driver, err = storage.New(storage.Config{Store: w.cluster, Definitions: w.cluster, SpoolDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	c := Config{Driver: w.driver, NBDSocket: "/nbd.sock", Snapshots: w.cluster}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.srv = s
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.ThawLate(ctx) })
	for path, access := range map[string]Access{w.path: ReadWrite, w.path + "-ro": ReadOnly} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := s.Serve(ctx, l, access); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	w.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(w.stop)
	return w
}

// pool defines and starts a pool with one volume of n bytes.
func (w *world) pool(name, volume string, n uint64) {
	w.t.Helper()
	ctx := w.t.Context()
	if _, err := w.driver.Define(ctx, "<pool type='sheepdog'><name>"+name+"</name></pool>"); err != nil {
		w.t.Fatal(err)
	}
	if err := w.driver.Start(ctx, name); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cluster.Create(ctx, name+"/"+volume, n); err != nil {
		w.t.Fatal(err)
	}
}

// raw is a client that speaks the protocol word by word.
type raw struct {
	t      *testing.T
	conn   net.Conn
	serial uint32
}

const testTimeout = 20 * time.Second

func (w *world) dial(suffix string) *raw {
	w.t.Helper()
	conn, err := net.Dial("unix", w.path+suffix)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(testTimeout))
	return &raw{t: w.t, conn: conn}
}

func (r *raw) send(h rpc.Header, payload []byte) {
	r.t.Helper()
	h.Program, h.Version = rpc.ProgramRemote, rpc.Version
	if _, err := rpc.NewMessage(h, payload).WriteTo(r.conn); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) read() *rpc.Message {
	r.t.Helper()
	m, err := rpc.ReadMessage(r.conn)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// begin sends a call and returns its serial.
func (r *raw) begin(p rpc.Procedure, args ...any) uint32 {
	r.t.Helper()
	r.serial++
	r.send(rpc.Header{Procedure: p, Serial: r.serial}, encode(args...))
	return r.serial
}

// call makes a call; its error is libvirt's.
func (r *raw) call(p rpc.Procedure, args ...any) (*rpc.Decoder, *rpc.Error) {
	r.t.Helper()
	serial := r.begin(p, args...)
	m := r.read()
	if m.Serial != serial || m.Type != rpc.Reply || m.Procedure != p {
		r.t.Fatalf("reply %+v to call %d of procedure %d", m.Header, serial, p)
	}
	if m.Status != rpc.OK {
		return nil, rpc.DecodeError(m.Payload())
	}
	return rpc.NewDecoder(m.Payload()), nil
}

func (r *raw) must(p rpc.Procedure, args ...any) *rpc.Decoder {
	r.t.Helper()
	d, err := r.call(p, args...)
	if err != nil {
		r.t.Fatalf("procedure %d: %v", p, err)
	}
	return d
}

// null is a string that is NULL.
type null struct{}

// optional is a string that may be NULL.
type optional string

func encode(args ...any) []byte {
	var e rpc.Encoder
	for _, a := range args {
		switch a := a.(type) {
		case string:
			e.String(a)
		case uint32:
			e.Uint32(a)
		case int:
			e.Int32(int32(a))
		case uint64:
			e.Uint64(a)
		case rpc.UUID:
			e.UUID(a)
		case null:
			e.OptString(nil)
		case optional:
			s := string(a)
			e.OptString(&s)
		case []byte:
			e.Raw(a)
		default:
			panic("argument of a test")
		}
	}
	return e.Bytes()
}

// stream reads a download to its end: what is data, and how many bytes are holes.
func (r *raw) stream(serial uint32) (data []byte, holes uint64) {
	r.t.Helper()
	for {
		m := r.read()
		switch {
		case m.Serial != serial:
			r.t.Fatalf("message %+v within stream %d", m.Header, serial)
		case m.Type == rpc.StreamHole:
			n := rpc.NewDecoder(m.Payload()).Uint64()
			holes += n
			data = append(data, make([]byte, n)...)
		case m.Status == rpc.Failed:
			r.t.Fatalf("stream failed: %v", rpc.DecodeError(m.Payload()))
		case m.Status == rpc.Continue && len(m.Payload()) == 0:
			r.send(rpc.Header{Procedure: m.Procedure, Type: rpc.Stream, Serial: serial, Status: rpc.OK}, nil)
			if end := r.read(); end.Status != rpc.OK || end.Type != rpc.Stream {
				r.t.Fatalf("the end was confirmed by %+v", end.Header)
			}
			return data, holes
		default:
			if len(m.Payload()) > rpc.MaxStreamData {
				r.t.Errorf("%d bytes in a stream message", len(m.Payload()))
			}
			data = append(data, m.Payload()...)
		}
	}
}

func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz\n"), n/37+1)[:n]
}
