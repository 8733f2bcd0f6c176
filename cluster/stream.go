package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
)

// raftAddress is a server's address in Raft's configuration: the node id goes
// with the address, as id@host:port, so that a stream that reaches another node
// than the one meant (addresses are reused) is refused instead of counted as a
// vote or a copy of the wrong one.
func raftAddress(id sheepdog.NodeID, addr string) raft.ServerAddress {
	return raft.ServerAddress(id.String() + "@" + addr)
}

// splitRaftAddress undoes raftAddress.
func splitRaftAddress(a raft.ServerAddress) (sheepdog.NodeID, string, error) {
	name, addr, ok := strings.Cut(string(a), "@")
	id, err := parseNodeID(name)
	if !ok || err != nil {
		return 0, "", fmt.Errorf("raft address %q: want id@host:port", a)
	}
	return id, addr, nil
}

func parseNodeID(s string) (sheepdog.NodeID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	return sheepdog.NodeID(n), err
}

// raftStreams carries Raft's streams over the node's port. Each starts with a
// greeting of the dialing side:
//
//	version=1 | cluster 16 | node meant 8 | own node 8
//
// which the other side answers with one byte, 0 for welcome.
type raftStreams struct {
	self     sheepdog.Member
	cluster  sheepdog.ClusterID
	dial     func(ctx context.Context, kind Stream, addr string) (net.Conn, error)
	listener net.Listener
	// locate says where a node is, if not at the address that the configuration has.
	locate func(id sheepdog.NodeID, configured string) string
	// unreachable is told of nodes whose port refused.
	unreachable func(id sheepdog.NodeID, err error)
	log         *slog.Logger

	broken atomic.Uint64 // reads and writes of opened streams that failed
	conns  *connSet
	ready  chan net.Conn
	ctx    context.Context // ends with the streams
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var _ raft.StreamLayer = (*raftStreams)(nil)

const (
	greetingVersion = 1
	greetingSize    = 1 + 16 + 8 + 8
	greetingTimeout = 2 * time.Second
	maxGreeting     = 64 // streams in greeting at a time
)

const (
	welcome byte = iota
	wrongCluster
	wrongNode
	wrongVersion
)

func newRaftStreams(o *Options, cluster sheepdog.ClusterID, env surroundings) *raftStreams {
	ctx, cancel := context.WithCancel(context.Background())
	s := &raftStreams{
		self: o.Self, cluster: cluster, dial: o.Dial, listener: o.RaftConns, log: o.Logger,
		conns: newConnSet(), ready: make(chan net.Conn), ctx: ctx, cancel: cancel,
		locate: env.locate, unreachable: env.suspect,
	}
	s.wg.Add(1)
	go s.acceptAll()
	return s
}

// acceptAll greets incoming streams side by side, so that one that says
// nothing does not hold up the others.
func (s *raftStreams) acceptAll() {
	defer s.wg.Done()
	slots := make(chan struct{}, maxGreeting)
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		tracked, ok := s.conns.add(conn)
		if !ok {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			defer func() { <-slots }()
			s.admit(tracked)
		}()
	}
}

func (s *raftStreams) admit(conn net.Conn) {
	if err := s.greeted(conn); err != nil {
		s.log.Warn("refused a raft stream", "from", conn.RemoteAddr(), "err", err)
		conn.Close()
		return
	}
	select {
	case s.ready <- conn:
	case <-s.ctx.Done():
		conn.Close()
	}
}

// greeted reads and answers a greeting.
func (s *raftStreams) greeted(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(greetingTimeout)); err != nil {
		return err
	}
	var b [greetingSize]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	verdict, err := s.judge(b[:])
	if _, werr := conn.Write([]byte{verdict}); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

func (s *raftStreams) judge(b []byte) (byte, error) {
	if b[0] != greetingVersion {
		return wrongVersion, fmt.Errorf("greeting of format %d", b[0])
	}
	from := sheepdog.NodeID(binary.BigEndian.Uint64(b[25:]))
	if sheepdog.ClusterID(b[1:17]) != s.cluster {
		return wrongCluster, fmt.Errorf("%w: node %v is of %x, this node of %v", sheepdog.ErrWrongCluster, from, b[1:17], s.cluster)
	}
	if meant := sheepdog.NodeID(binary.BigEndian.Uint64(b[17:])); meant != s.self.ID {
		return wrongNode, fmt.Errorf("node %v looks for node %v at the address of this node %v", from, meant, s.self.ID)
	}
	return welcome, nil
}

// Dial opens a stream to the node of id@host:port. The address is that of a
// configuration which only a leader corrects; a node that has moved since is found
// by gossip. Otherwise a cluster most of whose nodes have got new addresses while
// they were down would elect no leader any more.
func (s *raftStreams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, err := splitRaftAddress(address)
	if err != nil {
		return nil, err
	}
	addr = s.locate(id, addr)
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.dial(ctx, StreamRaft, addr)
	if err != nil {
		s.unreachable(id, err)
		return nil, fmt.Errorf("open raft stream to node %v at %s: %w", id, addr, err)
	}
	tracked, ok := s.conns.add(conn)
	if !ok {
		return nil, sheepdog.ErrClosed
	}
	if err := s.greet(tracked, id, timeout); err != nil {
		tracked.Close()
		return nil, fmt.Errorf("open raft stream to node %v at %s: %w", id, addr, err)
	}
	return &openedStream{tracked, &s.broken}, nil
}

// openedStream counts how often it fails: the library's errors do not tell those from
// errors that the other node has answered.
type openedStream struct {
	net.Conn
	broken *atomic.Uint64
}

func (o *openedStream) Read(b []byte) (int, error)  { return o.counted(o.Conn.Read(b)) }
func (o *openedStream) Write(b []byte) (int, error) { return o.counted(o.Conn.Write(b)) }

func (o *openedStream) counted(n int, err error) (int, error) {
	if err != nil {
		o.broken.Add(1)
	}
	return n, err
}

func (s *raftStreams) greet(conn net.Conn, id sheepdog.NodeID, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	b := make([]byte, 0, greetingSize)
	b = append(b, greetingVersion)
	b = append(b, s.cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(id))
	b = binary.BigEndian.AppendUint64(b, uint64(s.self.ID))
	if _, err := conn.Write(b); err != nil {
		return err
	}
	var verdict [1]byte
	if _, err := io.ReadFull(conn, verdict[:]); err != nil {
		return err
	}
	switch verdict[0] {
	case welcome:
		return conn.SetDeadline(time.Time{})
	case wrongCluster:
		return fmt.Errorf("refused: %w", sheepdog.ErrWrongCluster)
	case wrongNode:
		return errors.New("refused: another node has this address now")
	}
	return errors.New("refused: the node has another version")
}

// Accept hands out greeted streams.
func (s *raftStreams) Accept() (net.Conn, error) {
	select {
	case conn := <-s.ready:
		return conn, nil
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends all streams and waits for the goroutines.
func (s *raftStreams) Close() error {
	s.cancel()
	err := s.listener.Close()
	s.conns.closeAll()
	s.wg.Wait()
	return err
}

// Addr is this node's own address in Raft's configuration.
func (s *raftStreams) Addr() net.Addr { return serverAddr(raftAddress(s.self.ID, s.self.Addr)) }

type serverAddr string

func (serverAddr) Network() string  { return "raft" }
func (a serverAddr) String() string { return string(a) }

// connSet closes connections that libraries forget at shutdown.
type connSet struct {
	mu     sync.Mutex
	conns  map[*trackedConn]struct{}
	closed bool
}

type trackedConn struct {
	net.Conn
	set *connSet
}

func newConnSet() *connSet { return &connSet{conns: make(map[*trackedConn]struct{})} }

// add takes over conn; false, and conn closed, if the set is closed.
func (s *connSet) add(conn net.Conn) (net.Conn, bool) {
	t := &trackedConn{Conn: conn, set: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return nil, false
	}
	s.conns[t] = struct{}{}
	return t, true
}

func (s *connSet) closeAll() {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = make(map[*trackedConn]struct{})
	s.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}

// Close closes the connection and forgets it.
func (c *trackedConn) Close() error {
	c.set.mu.Lock()
	delete(c.set.conns, c)
	c.set.mu.Unlock()
	return c.Conn.Close()
}
