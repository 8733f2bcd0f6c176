package peer

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// MuxOptions are the limits of a Mux. Zero values mean the defaults.
type MuxOptions struct {
	// Cluster is the id to claim and to expect; zero while there is none.
	Cluster func() sheepdog.ClusterID
	// SniffTimeout is how long a connection may take to say what it is; 5 s.
	SniffTimeout time.Duration
	// MaxSniffing bounds the connections that have not said what they are; the
	// oldest has to go when there are more; 256.
	MaxSniffing int
	// OnRefused is told of connections that were turned away; it must not block.
	OnRefused func(from net.Addr, err error)
	Logger    *slog.Logger
}

func (o MuxOptions) withDefaults() MuxOptions {
	setDefault(&o.SniffTimeout, 5*time.Second)
	setDefault(&o.MaxSniffing, 256)
	if o.Cluster == nil {
		o.Cluster = func() sheepdog.ClusterID { return sheepdog.ClusterID{} }
	}
	if o.OnRefused == nil {
		o.OnRefused = func(net.Addr, error) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Mux sorts the connections of one listener by what they begin with. Kinds that
// nobody listens to are refused.
type Mux struct {
	opts MuxOptions
	base net.Listener
	wg   sync.WaitGroup
	done chan struct{}

	mu        sync.Mutex
	listeners [kinds]*muxListener
	sniffing  *list.List // of net.Conn, oldest first
	waiting   int        // connections to be accepted
	closed    bool
}

// NewMux sorts the connections of l, which it closes at Close.
func NewMux(l net.Listener, opts MuxOptions) *Mux {
	m := &Mux{opts: opts.withDefaults(), base: l, done: make(chan struct{}), sniffing: list.New()}
	m.wg.Go(m.accept)
	return m
}

// Addr is where the Mux listens.
func (m *Mux) Addr() net.Addr { return m.base.Addr() }

// Listen gives the connections of a kind to the returned listener. Of ours the
// preamble is dealt with; HTTP connections are as they came. A kind can be
// listened to once at a time.
func (m *Mux) Listen(kind Kind) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case kind >= kinds:
		return nil, invalid("listen: unknown %s", kind)
	case m.closed:
		return nil, fmt.Errorf("listen for %s: %w", kind, sheepdog.ErrClosed)
	case m.listeners[kind] != nil:
		return nil, fmt.Errorf("listen for %s: %w", kind, sheepdog.ErrExists)
	}
	l := &muxListener{mux: m, kind: kind, conns: make(chan net.Conn), done: make(chan struct{})}
	m.listeners[kind] = l
	return l, nil
}

func (m *Mux) accept() {
	for {
		conn, err := m.base.Accept()
		if err != nil {
			if !m.pause(err) {
				return
			}
			continue
		}
		m.enter(conn)
	}
}

// pause waits after a failure to accept, such as a want of file descriptors;
// false if the listener is gone.
func (m *Mux) pause(err error) bool {
	select {
	case <-m.done:
		return false
	default:
	}
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	m.opts.Logger.Error("accept", "addr", m.base.Addr(), "err", err)
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-m.done:
		return false
	}
}

// enter starts sniffing at a connection and sends the oldest one away if there
// are too many: whoever means well speaks at once.
func (m *Mux) enter(conn net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		conn.Close()
		return
	}
	if m.sniffing.Len() >= m.opts.MaxSniffing {
		oldest := m.sniffing.Front()
		m.sniffing.Remove(oldest)
		oldest.Value.(net.Conn).Close()
	}
	e := m.sniffing.PushBack(conn)
	m.wg.Go(func() { m.sniff(conn, e) })
}

func (m *Mux) sniff(conn net.Conn, e *list.Element) {
	kind, sorted, err := m.sort(conn)
	full := m.sorted(e)
	if err = firstOf(err, full); err == nil {
		err = m.deliver(kind, sorted)
	}
	if full == nil {
		m.mu.Lock()
		m.waiting--
		m.mu.Unlock()
	}
	if err != nil {
		conn.Close()
		m.refused(conn, err)
	}
}

// sorted takes a connection off the list of those that may be sent away, and
// refuses it if too many wait to be accepted already.
func (m *Mux) sorted(e *list.Element) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sniffing.Remove(e) // nothing if it was sent away
	if m.waiting >= m.opts.MaxSniffing {
		return fmt.Errorf("%d connections wait to be accepted already: %w", m.waiting, sheepdog.ErrBusy)
	}
	m.waiting++
	return nil
}

func (m *Mux) refused(conn net.Conn, err error) {
	if isTimeout(err) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return // said nothing: port scans and health checks do that
	}
	m.opts.Logger.Warn("connection refused", "from", conn.RemoteAddr(), "err", err)
	m.opts.OnRefused(conn.RemoteAddr(), err)
}

// sort reads what a connection begins with and answers a preamble.
func (m *Mux) sort(conn net.Conn) (Kind, net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(m.opts.SniffTimeout)); err != nil {
		return 0, nil, err
	}
	var b [preambleSize]byte
	n, err := conn.Read(b[:])
	if n == 0 {
		return 0, nil, firstOf(err, io.ErrNoProgress)
	}
	if b[0] != preambleMark[0] {
		return KindHTTP, &replayConn{Conn: conn, head: append([]byte(nil), b[:n]...)}, conn.SetDeadline(time.Time{})
	}
	if _, err := io.ReadFull(conn, b[n:]); err != nil {
		return 0, nil, err
	}
	p, err := decodePreamble(b[:])
	if err != nil {
		return 0, nil, err
	}
	if err := m.welcome(conn, p); err != nil {
		return 0, nil, err
	}
	return p.kind, conn, conn.SetDeadline(time.Time{})
}

// welcome answers a preamble.
func (m *Mux) welcome(conn net.Conn, p preamble) error {
	ours := preamble{kind: p.kind, version: sheepdog.ProtocolVersion, cluster: m.opts.Cluster()}
	code := answerWelcome
	refusal := checkPreamble(p, ours.cluster)
	switch {
	case errors.Is(refusal, sheepdog.ErrWrongCluster):
		code = answerWrongCluster
	case refusal != nil:
		code = answerWrongVersion
	case m.listener(p.kind) == nil:
		code, refusal = answerNotServed, fmt.Errorf("nobody listens for %s: %w", p.kind, sheepdog.ErrClosed)
	}
	if _, err := conn.Write(appendAnswer(nil, ours, code)); err != nil {
		return firstOf(refusal, err)
	}
	return refusal
}

func (m *Mux) listener(kind Kind) *muxListener {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listeners[kind]
}

// deliver waits for somebody to accept the connection.
func (m *Mux) deliver(kind Kind, conn net.Conn) error {
	l := m.listener(kind)
	if l == nil {
		return fmt.Errorf("nobody listens for %s: %w", kind, sheepdog.ErrClosed)
	}
	t := time.NewTimer(m.opts.SniffTimeout)
	defer t.Stop()
	select {
	case l.conns <- conn:
		return nil
	case <-l.done:
		return fmt.Errorf("deliver %s connection: %w", kind, sheepdog.ErrClosed)
	case <-t.C:
		return fmt.Errorf("%s connection was not accepted in %v", kind, m.opts.SniffTimeout)
	}
}

// Close closes the port and all listeners; connections that were accepted live
// on. It waits for its goroutines.
func (m *Mux) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	close(m.done)
	listeners := m.listeners
	for e := m.sniffing.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
	m.mu.Unlock()
	err := m.base.Close()
	for _, l := range listeners {
		if l != nil {
			l.Close()
		}
	}
	m.wg.Wait()
	return err
}

// muxListener is the listener of one kind.
type muxListener struct {
	mux   *Mux
	kind  Kind
	conns chan net.Conn
	done  chan struct{}
	once  atomic.Bool
}

func (l *muxListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.kind.String(), Addr: l.Addr(), Err: net.ErrClosed}
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: l.kind.String(), Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close ends the kind's service; the port stays.
func (l *muxListener) Close() error {
	if l.once.Swap(true) {
		return nil
	}
	close(l.done)
	l.mux.mu.Lock()
	defer l.mux.mu.Unlock()
	if l.mux.listeners[l.kind] == l {
		l.mux.listeners[l.kind] = nil
	}
	return nil
}

func (l *muxListener) Addr() net.Addr { return l.mux.base.Addr() }

// replayConn is a connection of which the first bytes were read already.
type replayConn struct {
	net.Conn
	head []byte
}

func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.head) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.head)
	c.head = c.head[n:]
	return n, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
