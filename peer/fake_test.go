package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"sheepdog"

	"go.uber.org/goleak"
)

var testCluster = sheepdog.ClusterID{1, 2, 3}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeHandler is a node whose answers a test sets; nil fields answer with
// sheepdog.ErrInvalid.
type fakeHandler struct {
	write   func(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error))
	read    func(ctx context.Context, req *sheepdog.ReadRequest) error
	flush   func(ctx context.Context, req *sheepdog.FlushRequest) error
	seal    func(ctx context.Context, req *sheepdog.SealRequest) (*sheepdog.SealReply, error)
	list    func(ctx context.Context, req *sheepdog.ListRequest) (*sheepdog.ListReply, error)
	fetch   func(ctx context.Context, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error)
	forward func(ctx context.Context, req *sheepdog.ForwardRequest, buf []byte) error
	control func(ctx context.Context, from sheepdog.NodeID, method string, body []byte) ([]byte, error)
}

var errNotSet = fmt.Errorf("%w: the test sets no answer", sheepdog.ErrInvalid)

func (h *fakeHandler) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	if h.write != nil {
		h.write(ctx, reqs, done)
		return
	}
	for i := range reqs {
		done(i, nil)
	}
}

func (h *fakeHandler) Read(ctx context.Context, req *sheepdog.ReadRequest) error {
	if h.read == nil {
		return errNotSet
	}
	return h.read(ctx, req)
}

func (h *fakeHandler) Flush(ctx context.Context, req *sheepdog.FlushRequest) error {
	if h.flush == nil {
		return errNotSet
	}
	return h.flush(ctx, req)
}

func (h *fakeHandler) Seal(ctx context.Context, req *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	if h.seal == nil {
		return nil, errNotSet
	}
	return h.seal(ctx, req)
}

func (h *fakeHandler) List(ctx context.Context, req *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	if h.list == nil {
		return nil, errNotSet
	}
	return h.list(ctx, req)
}

func (h *fakeHandler) Fetch(ctx context.Context, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	if h.fetch == nil {
		return nil, errNotSet
	}
	return h.fetch(ctx, req)
}

func (h *fakeHandler) Forward(ctx context.Context, req *sheepdog.ForwardRequest, buf []byte) error {
	if h.forward == nil {
		return errNotSet
	}
	return h.forward(ctx, req, buf)
}

func (h *fakeHandler) Control(ctx context.Context, from sheepdog.NodeID, method string, body []byte) ([]byte, error) {
	if h.control == nil {
		return nil, errNotSet
	}
	return h.control(ctx, from, method, body)
}

// testNode is a server behind a mux.
type testNode struct {
	member  sheepdog.Member
	mux     *Mux
	server  *Server
	refused chan error
	serve   sync.WaitGroup
}

func (n *testNode) close() {
	n.server.Close()
	n.mux.Close()
	n.serve.Wait()
}

func fixed(id sheepdog.ClusterID) func() sheepdog.ClusterID {
	return func() sheepdog.ClusterID { return id }
}

func startNode(t testing.TB, network sheepdog.Network, addr string, h Handler, opts Options) *testNode {
	t.Helper()
	l, err := network.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	if opts.Node == 0 {
		opts.Node, opts.Incarnation = 2, 22
	}
	if opts.Cluster == nil {
		opts.Cluster = fixed(testCluster)
	}
	n := &testNode{refused: make(chan error, 64)}
	n.mux = NewMux(l, MuxOptions{Cluster: opts.Cluster, OnRefused: func(_ net.Addr, err error) {
		select {
		case n.refused <- err:
		default:
		}
	}})
	n.server = NewServer(h, opts)
	pl, err := n.mux.Listen(KindPeer)
	if err != nil {
		t.Fatal(err)
	}
	n.serve.Go(func() {
		if err := n.server.Serve(pl); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	n.member = sheepdog.Member{ID: opts.Node, Incarnation: opts.Incarnation, Addr: l.Addr().String()}
	t.Cleanup(n.close)
	return n
}

func startPool(t testing.TB, network sheepdog.Network, opts Options) *Pool {
	t.Helper()
	if opts.Node == 0 {
		opts.Node, opts.Incarnation = 1, 11
	}
	if opts.Cluster == nil {
		opts.Cluster = fixed(testCluster)
	}
	p := NewPool(network, opts)
	t.Cleanup(p.Close)
	return p
}

// pair is a client of a node with the given handler over real loopback.
func pair(t testing.TB, h Handler) *Client {
	t.Helper()
	n := startNode(t, HostNetwork(), "127.0.0.1:0", h, Options{})
	return startPool(t, HostNetwork(), Options{}).Client(n.member)
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// writeAll runs one Write and collects the errors.
func writeAll(t testing.TB, r sheepdog.Replica, ctx context.Context, reqs ...*sheepdog.WriteRequest) []error {
	t.Helper()
	errs := make([]error, len(reqs))
	var wg sync.WaitGroup
	wg.Add(len(reqs))
	r.Write(ctx, reqs, func(i int, err error) {
		errs[i] = err
		wg.Done()
	})
	wg.Wait()
	return errs
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// blocks makes n blocks that differ from each other and from those of another
// fill.
func blocks(n int, fill byte) []byte {
	pattern := make([]byte, sheepdog.BlockSize+256)
	for i := range pattern {
		pattern[i] = byte(i)
	}
	b := make([]byte, 0, n*sheepdog.BlockSize)
	for i := range n {
		from := int(fill + byte(i))
		b = append(b, pattern[from:from+sheepdog.BlockSize]...)
	}
	return b
}
