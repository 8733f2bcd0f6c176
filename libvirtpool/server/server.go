// Package server speaks libvirt's protocol to its clients: alone, for storage
// only, or in front of a libvirtd, to which everything goes that does not concern
// our pools and disks. What pools and volumes do is package storage's; what
// becomes of disks in domain XML is package domxml's.
//
// A Session is one client's connection. It has a connection of its own to the
// libvirtd behind, so that what clients do there does not mix.
//
// Main types: Server, Config.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"sheepdog/internal/pause"
	"sheepdog/libvirtpool/domxml"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// Limits of a server.
const (
	DefaultMaxClients = 1000
	maxCalls          = 32   // calls of one client in progress here
	maxStreams        = 32   // streams of one client
	streamQueue       = 16   // stream messages that wait for the cluster
	eventQueue        = 1024 // events that wait for a slow client
	maxCallbacks      = 256  // event registrations of one client
	writeTimeout      = 5 * time.Minute
	dialTimeout       = 10 * time.Second
	upstreamTimeout   = 60 * time.Second // of calls that we make ourselves
	definitionsPoll   = 5 * time.Second
)

// Access is what a socket allows.
type Access int

// The kinds of sockets.
const (
	ReadWrite Access = iota
	ReadOnly
)

// VDISnapshots makes snapshots of VDIs for snapshots of domains.
type VDISnapshots interface {
	Find(ctx context.Context, vdi string) (storage.VDI, error)
	Snapshot(ctx context.Context, vdi, tag string) error
	DeleteSnapshot(ctx context.Context, vdi, tag string) error
	Rollback(ctx context.Context, vdi, tag string) error
}

// Config is what a Server needs.
type Config struct {
	Driver *storage.Driver
	// Upstream and UpstreamReadOnly are libvirtd's sockets. Empty: stand alone.
	Upstream         string
	UpstreamReadOnly string
	// NBDSocket is where the local gateway serves VDIs; it goes into domain XML.
	NBDSocket string
	// NBDReconnect is how many seconds QEMU waits for a gateway that restarts.
	NBDReconnect int
	Snapshots    VDISnapshots
	MaxClients   int // 0: DefaultMaxClients
	Logger       *slog.Logger
}

// Server answers clients of libvirt.
type Server struct {
	cfg      Config
	log      *slog.Logger
	verbs    map[rpc.Procedure]verb
	disks    domxml.Rewriter
	hostname string
	slots    chan struct{} // one token per client
	bounds   bounds
	turns    turns     // of snapshots of domains
	held     chan held // guests that could not be thawed or resumed
}

// New makes a server.
func New(c Config) (*Server, error) {
	if c.MaxClients == 0 {
		c.MaxClients = DefaultMaxClients
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find the name of this host: %w", err)
	}
	s := &Server{cfg: c, log: c.Logger, hostname: host, slots: make(chan struct{}, c.MaxClients),
		bounds: bounds{freeze: freezeTimeout, thaw: thawTimeout, again: thawEvery}, held: make(chan held, maxHeld)}
	s.disks = domxml.Rewriter{Socket: c.NBDSocket, Pools: c.Driver, Reconnect: c.NBDReconnect}
	s.verbs = storageVerbs()
	return s, nil
}

// Serve accepts clients from l, which it closes, until ctx ends, and waits for
// them.
func (s *Server) Serve(ctx context.Context, l net.Listener, a Access) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("listen on %s: %w", l.Addr(), err)
		}
		if err != nil {
			s.log.Error("a client was not accepted", "err", err)
			if pause.For(ctx, 100*time.Millisecond) != nil { // out of descriptors: let some go
				return nil
			}
			continue
		}
		s.admit(ctx, conn, a, &sessions)
	}
}

// admit serves a connection unless there are too many.
func (s *Server) admit(ctx context.Context, conn net.Conn, a Access, sessions *sync.WaitGroup) {
	select {
	case s.slots <- struct{}{}:
	default:
		s.log.Warn("too many clients, one was refused", "limit", s.cfg.MaxClients)
		conn.Close()
		return
	}
	sessions.Go(func() {
		defer func() { <-s.slots }()
		if err := s.session(ctx, conn, a); err != nil {
			s.log.Info("a client's connection ended", "err", err)
		}
	})
}

// Watch keeps what is known of pools fresh until ctx ends, so that calls can be
// told apart without asking the cluster.
func (s *Server) Watch(ctx context.Context) {
	for {
		if err := s.cfg.Driver.Reload(ctx); err != nil {
			s.log.Warn("pools stay as last known", "err", err)
		}
		if pause.For(ctx, definitionsPoll) != nil {
			return
		}
	}
}
