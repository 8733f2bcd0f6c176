package nbd

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// alive fails unless another client is served well.
func (g *rig) alive() {
	g.t.Helper()
	c := g.connect("disk", true)
	for _, n := range []int{4096, 1 << 20} {
		if a := c.do(header{cmd: cmdWrite, length: uint32(n)}, make([]byte, n)); a.errno != 0 {
			g.t.Fatalf("write of %d bytes: errno %d", n, a.errno)
		}
		if a := c.do(header{cmd: cmdRead, length: uint32(n)}, nil); len(a.data) != n {
			g.t.Fatalf("read of %d bytes: errno %d", n, a.errno)
		}
	}
	c.send(header{cmd: cmdDisc}, nil)
	c.ended()
}

func TestGarbage(t *testing.T) {
	g := newRig(t, newMemDevice(1<<20))
	garbage := randomBytes(1 << 20)
	for i := range 50 {
		nc := g.dial()
		nc.Write(garbage[i*1000 : i*1000+i*10])
		nc.Close()
		c := g.connect("disk", i%2 == 0)
		c.nc.Write(garbage[i*2000 : i*2000+1000]) // the server may have closed already
		c.ended()
	}
	g.alive()
}

// A thousand clients that say nothing keep nobody out.
func TestThousandSilentClients(t *testing.T) {
	g := newRig(t, newMemDevice(1<<20))
	var idle []net.Conn
	for range 1000 {
		nc, err := net.Dial("unix", g.path)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, nc)
	}
	g.alive()
	g.server.mu.Lock()
	n := g.server.handshakes.Len()
	g.server.mu.Unlock()
	if n > g.server.cfg.MaxHandshakes {
		t.Errorf("%d handshakes at once", n)
	}
	for _, nc := range idle {
		nc.Close()
	}
}

// All guests of a host connect at the same moment: none of them is pushed out.
func TestMoreClientsAtOnceThanHandshakesAllAttach(t *testing.T) {
	simulated(t, newMemDevice(4096), Config{MaxHandshakes: 3}, func(t *testing.T, l *pipeListener, s *Server) {
		var clients sync.WaitGroup
		for range 40 {
			clients.Go(func() {
				nc := l.dial()
				time.Sleep(time.Millisecond) // whoever is accepted at once is in the middle of it now
				c := newClient(t, nc)
				c.attach("disk")
				nc.Close()
			})
		}
		clients.Wait()
	})
}

// Where clients that say nothing have all places, another one waits for a moment.
func TestSilentClientsArePushedOut(t *testing.T) {
	simulated(t, newMemDevice(4096), Config{MaxHandshakes: 3}, func(t *testing.T, l *pipeListener, s *Server) {
		for range 3 {
			nc := l.dial()
			go io.Copy(io.Discard, nc)
		}
		began := time.Now()
		nc := l.dial()
		newClient(t, nc).attach("disk")
		if took := time.Since(began); took != handshakePatience {
			t.Errorf("it waited %v", took)
		}
		nc.Close()
	})
}

// A thousand attached clients are served at the same time.
func TestThousandConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	g := newRig(t, newMemDevice(1<<20), func(c *Config) { c.MaxHandshakes = 1000 })
	var clients []*client
	for range 1000 {
		clients = append(clients, g.connect("disk", true))
	}
	for _, c := range clients {
		c.send(header{cmd: cmdRead, length: 4096}, nil)
	}
	for _, c := range clients {
		if a := c.receive(func(uint64) header { return header{cmd: cmdRead, length: 4096} }); a.errno != 0 {
			t.Fatalf("errno %d", a.errno)
		}
		c.nc.Close()
	}
}

// pipeListener accepts the far ends of pipes, for tests with simulated time.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

// simulated runs f with a server in simulated time.
func simulated(t *testing.T, dev Device, cfg Config, f func(t *testing.T, l *pipeListener, s *Server)) {
	synctest.Test(t, func(t *testing.T) {
		e := &memExports{t: t, devices: map[string]Device{"disk": dev}}
		cfg.Exports = e
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		l := newPipeListener()
		served := make(chan error, 1)
		go func() { served <- s.Serve(context.Background(), l) }()
		f(t, l, s)
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := e.open.Load(); n != 0 {
			t.Errorf("%d devices were not closed", n)
		}
	})
}

// Silence at any point of the handshake ends in time.
func TestHalfHandshakes(t *testing.T) {
	whole := append([]byte{0, 0, 0, 3}, optionBytes(optInfo, exportPayload("disk"))...)
	for _, n := range []int{0, 3, 4, 12, 20, 21, len(whole) - 1, len(whole)} {
		simulated(t, newMemDevice(4096), Config{}, func(t *testing.T, l *pipeListener, s *Server) {
			nc := l.dial()
			began := time.Now()
			go nc.Write(whole[:n])
			io.Copy(io.Discard, nc)
			if took := time.Since(began); took != s.cfg.HandshakeTimeout {
				t.Errorf("silence after %d bytes: took %v", n, took)
			}
		})
	}
}

// One byte from time to time does not stretch a handshake.
func TestSlowHandshake(t *testing.T) {
	simulated(t, newMemDevice(4096), Config{}, func(t *testing.T, l *pipeListener, s *Server) {
		nc := l.dial()
		began := time.Now()
		go io.Copy(io.Discard, nc)
		for _, b := range make([]byte, 1000) {
			time.Sleep(5 * time.Second)
			if _, err := nc.Write([]byte{b}); err != nil {
				break
			}
		}
		if took := time.Since(began); took > s.cfg.HandshakeTimeout+5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// attachPipe attaches over a pipe.
func attachPipe(t *testing.T, l *pipeListener) *client {
	c := newClient(t, l.dial())
	c.mustOption(optStructuredReply, nil)
	c.structured = true
	c.attach("disk")
	return c
}

// An attached client may be silent for ever between requests, but not in the
// middle of one's payload, nor may it leave a reply unread for ever.
func TestStalls(t *testing.T) {
	for _, tt := range []struct {
		name string
		send []byte
		ends bool
	}{
		{"idle", nil, false},
		{"half a header", requestBytes(header{cmd: cmdRead, length: 4096}, nil)[:20], false},
		{"half a payload", requestBytes(header{cmd: cmdWrite, length: 4096}, make([]byte, 2048)), true},
		{"half a refused payload", requestBytes(header{cmd: cmdWrite, off: 1 << 40, length: 4096}, make([]byte, 2048)), true},
		{"reply not read", requestBytes(header{cmd: cmdRead, length: 4096}, nil), true},
		{"large reply not read", requestBytes(header{cmd: cmdRead, length: 8 << 20}, nil), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulated(t, newMemDevice(8<<20), Config{}, func(t *testing.T, l *pipeListener, s *Server) {
				c := attachPipe(t, l)
				defer c.nc.Close()
				c.nc.Write(tt.send)
				time.Sleep(s.cfg.StallTimeout - time.Second)
				if n := connections(s); n != 1 {
					t.Fatal("ended too early")
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if n := connections(s); (n == 0) != tt.ends {
					t.Errorf("%d connections are left", n)
				}
			})
		})
	}
}

func connections(s *Server) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// A client that moves its bytes slowly but steadily is not taken for stalled.
func TestSlowIsNotStalled(t *testing.T) {
	simulated(t, newMemDevice(16<<20), Config{}, func(t *testing.T, l *pipeListener, s *Server) {
		c := attachPipe(t, l)
		defer c.nc.Close()
		c.nc.Write(requestBytes(header{cmd: cmdWrite, length: 16 << 20}, nil))
		for range 16 << 20 / (64 << 10) {
			time.Sleep(2 * time.Second) // 32 KiB/s
			if _, err := c.nc.Write(make([]byte, 64<<10)); err != nil {
				t.Fatal(err)
			}
		}
		if a := c.receive(func(uint64) header { return header{cmd: cmdWrite} }); a.errno != 0 {
			t.Errorf("errno %d", a.errno)
		}
	})
}

// Clients that sit on shared bytes make way soon when others wait for them;
// meanwhile small requests of others are not held up at all.
func TestStalledUnderPressure(t *testing.T) {
	for _, hog := range []command{cmdRead, cmdWrite} { // its reply unread, its payload unsent
		t.Run(hog.String(), func(t *testing.T) { testStalledUnderPressure(t, hog) })
	}
}

func testStalledUnderPressure(t *testing.T, cmd command) {
	cfg := Config{MaxRequestBytes: 32 << 20, SharedBytes: 32 << 20, MaxConnectionBytes: 32 << 20}
	simulated(t, newMemDevice(32<<20), cfg, func(t *testing.T, l *pipeListener, s *Server) {
		hog := attachPipe(t, l)
		defer hog.nc.Close()
		hog.nc.Write(requestBytes(header{cmd: cmd, length: 32 << 20}, nil))
		synctest.Wait()
		began := time.Now()
		c := attachPipe(t, l)
		defer c.nc.Close()
		c.do(header{cmd: cmdRead, length: 64 << 10}, nil)
		c.do(header{cmd: cmdWrite, length: 64 << 10}, make([]byte, 64<<10))
		if took := time.Since(began); took != 0 {
			t.Errorf("small requests took %v", took)
		}
		if a := c.do(header{cmd: cmdRead, length: 32 << 20}, nil); a.errno != 0 {
			t.Errorf("errno %d", a.errno)
		}
		if took := time.Since(began); took < s.cfg.PressureTimeout || took > 3*s.cfg.PressureTimeout {
			t.Errorf("large request took %v", took)
		}
		if n := connections(s); n != 1 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// A client that never reads stalls itself and nobody else, in bounded memory.
func TestNeverReadingClient(t *testing.T) {
	dev := newMemDevice(32 << 20)
	g := newRig(t, dev, func(c *Config) { c.MaxRequests, c.MaxConnectionBytes = 64, 8<<20 })
	var hogs sync.WaitGroup
	for range 4 {
		c := g.connect("disk", true)
		c.nc.SetDeadline(time.Now().Add(300 * time.Millisecond))
		hogs.Go(func() {
			for {
				if _, err := c.nc.Write(requestBytes(header{cmd: cmdRead, length: 1 << 20}, nil)); err != nil {
					return // the server has stopped reading
				}
			}
		})
	}
	hogs.Wait()
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools survive one
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 128<<20 {
		t.Errorf("%d MiB of heap in use", m.HeapAlloc>>20)
	}
	g.alive()
	g.server.mu.Lock()
	defer g.server.mu.Unlock()
	for c := range g.server.conns {
		if c.session != nil && c.session.window.inFlight() > 64 {
			t.Errorf("%d requests in flight", c.session.window.inFlight())
		}
	}
}

// A client that vanishes while the limits keep the server from reading is
// noticed, and its requests are cancelled.
func TestHangUpWhileThrottled(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			dev := newMemDevice(1 << 20)
			dev.gate = make(chan struct{}) // never opens
			g := newRig(t, dev, func(c *Config) { c.MaxRequests, c.StallTimeout = 4, 100*time.Millisecond })
			nc := g.dialBy(network)
			c := newClient(t, nc)
			c.attach("disk")
			for range 20 {
				c.send(header{cmd: cmdRead, length: 4096}, nil)
			}
			eventually(t, "the window is full", func() bool { return dev.running.Load() == 4 })
			c.nc.Close()
			eventually(t, "the device is closed", func() bool { return g.exports.open.Load() == 0 })
		})
	}
}

// dialBy connects by unix socket or by a TCP listener made for it.
func (g *rig) dialBy(network string) net.Conn {
	g.t.Helper()
	if network == "unix" {
		return g.dial()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.serve(l)
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

// A connection cut at any byte of a write leaves no trace but that write.
func TestDisconnectMidWrite(t *testing.T) {
	dev := newMemDevice(1 << 20)
	g := newRig(t, dev)
	whole := requestBytes(header{cmd: cmdWrite, off: 4096, length: 8192}, randomBytes(8192))
	for _, n := range []int{1, 27, 28, 29, 5000, len(whole) - 1} {
		c := g.connect("disk", true)
		c.write(whole[:n])
		c.nc.Close()
	}
	eventually(t, "all devices are closed", func() bool { return g.exports.open.Load() == 0 })
	for _, b := range dev.bytes(0, 1<<20) {
		if b != 0 {
			t.Fatal("an incomplete write was applied")
		}
	}
	g.alive()
}

// Many clients on both kinds of listener at once, with honest and other ends.
func TestTCPAndUnixTogether(t *testing.T) {
	g := newRig(t, newMemDevice(1<<20))
	var clients []*client
	for i := range 8 {
		c := newClient(t, g.dialBy([]string{"unix", "tcp"}[i%2]))
		c.attach("disk")
		clients = append(clients, c)
	}
	for i, c := range clients {
		want := fmt.Sprintf("client %d", i)
		c.do(header{cmd: cmdWrite, off: uint64(i) * 512, length: uint32(len(want))}, []byte(want))
	}
	for i := range clients {
		want := fmt.Sprintf("client %d", i)
		a := clients[0].do(header{cmd: cmdRead, off: uint64(i) * 512, length: uint32(len(want))}, nil)
		if string(a.data) != want {
			t.Errorf("read %q, want %q", a.data, want)
		}
	}
}
