package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

// both runs a test with simple and with structured replies.
func both(t *testing.T, f func(t *testing.T, structured bool)) {
	t.Run("simple", func(t *testing.T) { f(t, false) })
	t.Run("structured", func(t *testing.T) { f(t, true) })
}

// TestErrno is the table of refused requests; after each, the stream must be in
// step.
func TestErrno(t *testing.T) {
	const size, end = 1 << 20, 1 << 20
	over := make([]byte, 64<<20+1)
	for _, tt := range []struct {
		name    string
		h       header
		payload []byte
		want    uint32
	}{
		{"read past the end", header{cmd: cmdRead, off: end - 1, length: 2}, nil, wireEINVAL},
		{"read far past the end", header{cmd: cmdRead, off: 1<<64 - 1, length: 2}, nil, wireEINVAL},
		{"read to the end", header{cmd: cmdRead, off: end - 2, length: 2}, nil, 0},
		{"read nothing at the end", header{cmd: cmdRead, off: end}, nil, 0},
		{"read nothing past the end", header{cmd: cmdRead, off: end + 1}, nil, wireEINVAL},
		{"read too much", header{cmd: cmdRead, length: 64<<20 + 1}, nil, wireEINVAL},
		{"read 4 GiB", header{cmd: cmdRead, length: 1<<32 - 1}, nil, wireEINVAL},
		{"read with fua", header{cmd: cmdRead, length: 1, flags: cmdFlagFUA}, nil, 0},
		{"read with no hole", header{cmd: cmdRead, length: 1, flags: cmdFlagNoHole}, nil, wireEINVAL},
		{"write past the end", header{cmd: cmdWrite, off: end - 1, length: 2}, []byte("xx"), wireENOSPC},
		{"write far past the end", header{cmd: cmdWrite, off: 1<<64 - 1, length: 2}, []byte("xx"), wireENOSPC},
		{"write nothing at the end", header{cmd: cmdWrite, off: end}, nil, 0},
		{"write too much", header{cmd: cmdWrite, length: uint32(len(over))}, over, wireEINVAL},
		{"write with df", header{cmd: cmdWrite, length: 1, flags: cmdFlagDF}, []byte("x"), wireEINVAL},
		{"write with payload flag", header{cmd: cmdWrite, length: 1, flags: 1 << 5}, []byte("x"), wireEINVAL},
		{"flush", header{cmd: cmdFlush}, nil, 0},
		{"flush with length", header{cmd: cmdFlush, length: 1}, nil, wireEINVAL},
		{"flush with offset", header{cmd: cmdFlush, off: 1}, nil, wireEINVAL},
		{"trim", header{cmd: cmdTrim, length: size}, nil, 0},
		{"trim past the end", header{cmd: cmdTrim, off: 1, length: size}, nil, wireEINVAL},
		{"trim nothing", header{cmd: cmdTrim, flags: cmdFlagFUA}, nil, 0},
		{"zero", header{cmd: cmdWriteZeroes, length: size}, nil, 0},
		{"zero past the end", header{cmd: cmdWriteZeroes, off: 1, length: size}, nil, wireENOSPC},
		{"zero fast", header{cmd: cmdWriteZeroes, length: 1, flags: cmdFlagFastZero}, nil, 0},
		{"zero fast, slow", header{cmd: cmdWriteZeroes, length: 1, flags: cmdFlagFastZero | cmdFlagNoHole}, nil, wireENOTSUP},
		{"cache", header{cmd: cmdCache, length: size}, nil, 0},
		{"cache past the end", header{cmd: cmdCache, off: 1, length: size}, nil, wireEINVAL},
		{"status of nothing", header{cmd: cmdBlockStatus}, nil, wireEINVAL},
		{"status past the end", header{cmd: cmdBlockStatus, off: 1, length: size}, nil, wireEINVAL},
		{"resize", header{cmd: 8, length: 1}, nil, wireEINVAL},
		{"unknown", header{cmd: 0xffff, length: 1 << 30}, nil, wireEINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, structured bool) {
				c := newRig(t, newMemDevice(size)).connect("disk", structured)
				a := c.do(tt.h, tt.payload)
				if a.errno != tt.want {
					t.Errorf("errno %d %q, want %d", a.errno, a.text, tt.want)
				}
				if structured && (a.errno != 0) != (a.text != "") {
					t.Errorf("errno %d with text %q", a.errno, a.text)
				}
				if a := c.do(header{cmd: cmdRead, length: 3}, nil); !bytes.Equal(a.data, make([]byte, 3)) {
					t.Errorf("read after it: %v", a)
				}
			})
		})
	}
}

func TestReadOnly(t *testing.T) {
	dev := newMemDevice(1 << 20)
	dev.readOnly = true
	both(t, func(t *testing.T, structured bool) {
		c := newRig(t, dev).connect("disk", structured)
		for _, tt := range []struct {
			cmd     command
			payload []byte
			want    uint32
		}{
			{cmdWrite, []byte("data"), wireEPERM}, {cmdTrim, nil, wireEPERM}, {cmdWriteZeroes, nil, wireEPERM},
			{cmdRead, nil, 0}, {cmdCache, nil, 0},
		} {
			if a := c.do(header{cmd: tt.cmd, length: 4}, tt.payload); a.errno != tt.want {
				t.Errorf("%v: errno %d, want %d", tt.cmd, a.errno, tt.want)
			}
		}
		if a := c.do(header{cmd: cmdFlush}, nil); a.errno != 0 {
			t.Errorf("flush: errno %d", a.errno)
		}
	})
}

// Devices choose the errno by the error they return.
func TestDeviceErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want uint32
	}{
		{errors.New("boom"), wireEIO},
		{fmt.Errorf("layer: %w", ErrNoSpace), wireENOSPC},
		{ErrReadOnly, wireEPERM}, {ErrPolicy, wireEPERM}, {ErrInvalid, wireEINVAL},
		{ErrNotSupported, wireENOTSUP}, {ErrOverflow, wireEOVERFLOW}, {ErrNoMemory, wireENOMEM},
		{syscall.ENOSPC, wireENOSPC}, {syscall.EDQUOT, wireENOSPC}, {syscall.EROFS, wireEPERM},
		{syscall.EBADF, wireEIO}, {context.DeadlineExceeded, wireEIO},
	} {
		dev := newMemDevice(8192)
		dev.fail = func(string, uint64, uint64) error { return tt.err }
		c := newRig(t, dev).connect("disk", true)
		for _, cmd := range []command{cmdRead, cmdWrite, cmdFlush, cmdTrim, cmdCache, cmdWriteZeroes, cmdBlockStatus} {
			h := header{cmd: cmd, length: 4}
			if cmd == cmdFlush {
				h.length = 0
			}
			a := c.do(h, map[command][]byte{cmdWrite: []byte("data")}[cmd])
			if a.errno != tt.want || !strings.Contains(a.text, tt.err.Error()) {
				t.Errorf("%v, %v: errno %d %q, want %d", cmd, tt.err, a.errno, a.text, tt.want)
			}
		}
	}
}

// Bug: a request that was cut because the server stopped could be answered with
// EIO before its connection was closed: an error of the disk for a guest that
// would have connected again.
func TestCutRequestsAreNotAnswered(t *testing.T) {
	for _, err := range []error{ErrShutdown, fmt.Errorf("node: %w", context.Canceled), nil} {
		t.Run(fmt.Sprint(err), func(t *testing.T) {
			both(t, func(t *testing.T, structured bool) {
				for range 20 {
					cutOne(t, err, structured)
				}
			})
		})
	}
}

// cutOne has a read fail with err, or be cut by the end of the server.
func cutOne(t *testing.T, err error, structured bool) {
	dev := newMemDevice(8192)
	if err != nil {
		dev.fail = func(string, uint64, uint64) error { return err }
	} else {
		dev.gate = make(chan struct{}) // never opens
	}
	g := newRig(t, dev)
	c := g.connect("disk", structured)
	c.send(header{cmd: cmdRead, length: 4096}, nil)
	if err == nil {
		eventually(t, "the read runs", func() bool { return dev.running.Load() == 1 })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		g.server.Shutdown(ctx)
	}
	if n, err := io.Copy(io.Discard, c.r); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes came (%v), want the end of the connection", n, err)
	}
}

// TestIntegrity writes and reads 50 MiB in requests of many sizes, some larger
// than clients may assume to be taken (conformance clients send them), with many in
// flight.
func TestIntegrity(t *testing.T) {
	const size = 50 << 20
	want := randomBytes(size)
	for i, request := range []int{511, 4096, 16<<10 + 1, 16 << 10, 1 << 20, 7 << 20, 32 << 20, 50_000_000} {
		t.Run(fmt.Sprint(request), func(t *testing.T) {
			alternate(t, i, func(t *testing.T, structured bool) {
				dev := newMemDevice(size)
				c := newRig(t, dev).connect("disk", structured)
				n := size
				if request < 1<<20 {
					n = 8 << 20
				}
				pipelined(c, cmdWrite, request, n, func(off, k int) []byte { return want[off : off+k] }, nil)
				if !bytes.Equal(dev.bytes(0, n), want[:n]) {
					t.Fatal("written bytes differ")
				}
				pipelined(c, cmdRead, request, n, nil, func(off int, p []byte) {
					if !bytes.Equal(p, want[off:off+len(p)]) {
						t.Fatalf("read bytes at %d differ", off)
					}
				})
			})
		})
	}
}

// alternate runs a test with one kind of reply or the other.
func alternate(t *testing.T, i int, f func(t *testing.T, structured bool)) { f(t, i%2 == 0) }

// pipelined sends requests over n bytes from one goroutine and takes the
// answers, in any order, in another.
func pipelined(c *client, cmd command, request, n int, payload func(off, k int) []byte, check func(off int, p []byte)) {
	c.t.Helper()
	first := c.cookie + 1
	at := func(cookie uint64) header {
		off := int(cookie-first) * request
		return header{cmd: cmd, off: uint64(off), length: uint32(min(request, n-off))}
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for off := 0; off < n; off += request {
			k := min(request, n-off)
			var p []byte
			if payload != nil {
				p = payload(off, k)
			}
			h := header{cmd: cmd, cookie: first + uint64(off/request), off: uint64(off), length: uint32(k)}
			if _, err := c.nc.Write(requestBytes(h, p)); err != nil {
				c.t.Errorf("send: %v", err)
				return
			}
		}
	}()
	seen := map[uint64]bool{}
	for range (n + request - 1) / request {
		a := c.receive(at)
		if a.errno != 0 || seen[a.cookie] {
			c.t.Fatalf("answer %d: errno %d %s, seen %v", a.cookie, a.errno, a.text, seen[a.cookie])
		}
		seen[a.cookie] = true
		if check != nil {
			check(int(at(a.cookie).off), a.data)
		}
	}
	<-sent
	c.cookie += uint64(len(seen))
}

// A fast request overtakes a slow one.
func TestOutOfOrder(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		dev := newMemDevice(1 << 20)
		dev.gate = make(chan struct{})
		c := newRig(t, dev).connect("disk", structured)
		slow := header{cmd: cmdRead, length: 4096}
		first, second := c.send(slow, nil), c.send(slow, nil)
		third := c.send(header{cmd: cmdWrite, off: 8192, length: 2}, []byte("hi"))
		if a := c.receive(func(uint64) header { return header{cmd: cmdWrite} }); a.cookie != third {
			t.Fatalf("answer to %d, want %d", a.cookie, third)
		}
		close(dev.gate)
		got := map[uint64]bool{}
		for range 2 {
			got[c.receive(func(uint64) header { return slow }).cookie] = true
		}
		if !got[first] || !got[second] {
			t.Errorf("answered %v", got)
		}
	})
}

// DISC answers what is in flight before it ends the connection.
func TestDisconnectDrains(t *testing.T) {
	dev := newMemDevice(1 << 20)
	dev.gate = make(chan struct{})
	g := newRig(t, dev)
	c := g.connect("disk", true)
	h := header{cmd: cmdRead, length: 4096}
	cookie := c.send(h, nil)
	c.send(header{cmd: cmdDisc}, nil)
	eventually(t, "the read runs", func() bool { return dev.running.Load() == 1 })
	close(dev.gate)
	if a := c.receive(func(uint64) header { return h }); a.cookie != cookie || a.errno != 0 {
		t.Errorf("answer %+v", a)
	}
	c.ended()
	eventually(t, "the device is closed", func() bool { return g.exports.open.Load() == 0 })
}

// A connection that breaks cancels its requests; the device is closed after
// they ended.
func TestHangUpCancels(t *testing.T) {
	dev := newMemDevice(1 << 20)
	dev.gate = make(chan struct{}) // never opens
	g := newRig(t, dev)
	c := g.connect("disk", true)
	for range 10 {
		c.send(header{cmd: cmdRead, length: 4096}, nil)
	}
	eventually(t, "the reads run", func() bool { return dev.running.Load() == 10 })
	c.nc.Close()
	eventually(t, "the device is closed", func() bool { return g.exports.open.Load() == 0 })
}

func TestPrompt(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		dev := newMemDevice(1 << 20)
		copy(dev.data, "prompt")
		dev.fail = func(op string, _, _ uint64) error { return errors.New(op + " took the slow way") }
		c := newRig(t, promptDevice{dev}).connect("disk", structured)
		h := header{cmd: cmdRead, length: 6}
		var batch []byte
		for i := range 1000 {
			h.cookie = uint64(i)
			batch = append(batch, requestBytes(h, nil)...)
		}
		c.write(batch)
		for i := range 1000 {
			a := c.receive(func(uint64) header { return h })
			if a.cookie != uint64(i) || string(a.data) != "prompt" {
				t.Fatalf("answer %d is %+v", i, a)
			}
		}
	})
}

func TestFUAReachesDevice(t *testing.T) {
	dev := newMemDevice(1 << 20)
	c := newRig(t, dev).connect("disk", false)
	c.do(header{cmd: cmdWrite, length: 1, flags: cmdFlagFUA}, []byte("x"))
	c.do(header{cmd: cmdWriteZeroes, length: 1, flags: cmdFlagFUA}, nil)
	c.do(header{cmd: cmdWrite, length: 1}, []byte("x"))
	if n := dev.fua.Load(); n != 2 {
		t.Errorf("%d writes with FUA, want 2", n)
	}
}

// A device that grows serves its new end to clients that are attached.
func TestGrow(t *testing.T) {
	dev := newMemDevice(4096)
	g := newRig(t, dev)
	c := g.connect("disk", true)
	h := header{cmd: cmdWrite, off: 4096, length: 4}
	if a := c.do(h, []byte("more")); a.errno != wireENOSPC {
		t.Fatalf("errno %d before growing", a.errno)
	}
	dev.grow(8192)
	if a := c.do(h, []byte("more")); a.errno != 0 {
		t.Fatalf("errno %d after growing", a.errno)
	}
	if c := g.connect("disk", true); c.size != 8192 {
		t.Errorf("size is %d", c.size)
	}
}

func TestBlockStatus(t *testing.T) {
	const n = 1 << 20
	for _, tt := range []struct {
		name  string
		flags uint16
		found []Extent
		want  []Extent
	}{
		{"plain", 0, []Extent{{4096, 0}, {n - 4096, Hole | Zero}}, []Extent{{4096, 0}, {n - 4096, Hole | Zero}}},
		{"one", cmdFlagReqOne, []Extent{{4096, Zero}, {4096, 0}}, []Extent{{4096, Zero}}},
		{"one joined", cmdFlagReqOne, []Extent{{4096, Zero}, {4096, Zero}, {1, 0}}, []Extent{{8192, Zero}}},
		{"joined", 0, []Extent{{1, 0}, {2, 0}, {3, Hole}}, []Extent{{3, 0}, {3, Hole}}},
		{"too long", 0, []Extent{{n, 0}, {n, Hole}}, []Extent{{n, 0}}},
		{"huge", 0, []Extent{{1 << 63, Hole}}, []Extent{{n, Hole}}},
		{"with nothing in it", 0, []Extent{{0, Hole}, {5, 0}}, []Extent{{5, 0}}},
		{"silent", 0, nil, []Extent{{n, 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := newMemDevice(n)
			dev.status = func(uint64, uint64, int) []Extent { return tt.found }
			c := newRig(t, dev).connect("disk", true)
			a := c.do(header{cmd: cmdBlockStatus, length: n, flags: tt.flags}, nil)
			if fmt.Sprint(a.extents) != fmt.Sprint(tt.want) || a.errno != 0 {
				t.Errorf("extents %v, want %v; errno %d", a.extents, tt.want, a.errno)
			}
		})
	}
}

func TestBlockStatusIsBounded(t *testing.T) {
	dev := newMemDevice(64 << 20)
	dev.status = func(_, n uint64, max int) []Extent {
		if max > maxExtents {
			t.Errorf("asked for %d extents", max)
		}
		var all []Extent
		for i := range n / 4096 {
			all = append(all, Extent{4096, ExtentFlags(i % 2)})
		}
		return all
	}
	c := newRig(t, dev).connect("disk", true)
	if a := c.do(header{cmd: cmdBlockStatus, length: 64 << 20}, nil); len(a.extents) != maxExtents {
		t.Errorf("%d extents", len(a.extents))
	}
}

// DF is always honoured: a read is never split.
func TestDontFragment(t *testing.T) {
	c := newRig(t, newMemDevice(64<<20)).connect("disk", true)
	for _, n := range []uint32{0, 1, 64 << 10, 64 << 20} {
		if a := c.do(header{cmd: cmdRead, length: n, flags: cmdFlagDF}, nil); len(a.data) != int(n) || a.errno != 0 {
			t.Errorf("%d bytes of %d, errno %d", len(a.data), n, a.errno)
		}
	}
	if a := c.do(header{cmd: cmdRead, length: 64<<20 + 1, flags: cmdFlagDF}, nil); a.errno != wireEOVERFLOW {
		t.Errorf("errno %d", a.errno)
	}
	simple := newRig(t, newMemDevice(4096)).connect("disk", false)
	if a := simple.do(header{cmd: cmdRead, length: 1, flags: cmdFlagDF}, nil); a.errno != wireEINVAL {
		t.Errorf("without structured replies: errno %d", a.errno)
	}
}
