package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// connected makes a connection from a to b:1.
func connected(t *testing.T, n *Net) (a, b net.Conn) {
	t.Helper()
	l, err := n.Host("b").Listen(":1")
	if err != nil {
		t.Fatal(err)
	}
	a = dial(t, n.Host("a"), "b:1")
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func dial(t *testing.T, h *Host, addr string) net.Conn {
	t.Helper()
	c, err := h.Dial(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); err != nil || n != len(s) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(s), err)
	}
}

func expect(t *testing.T, c net.Conn, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Fatalf("read %q, %v; want %q", b, err, s)
	}
}

// expectSilence checks that nothing arrives for a second.
func expectSilence(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want silence", n, err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func TestStreamTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{Latency: 10 * time.Millisecond})
		start := time.Now()
		a, b := connected(t, n)
		if d := time.Since(start); d != 20*time.Millisecond {
			t.Errorf("dial took %v, want a round trip of 20ms", d)
		}
		start = time.Now()
		send(t, a, "hello")
		expect(t, b, "hello")
		if d := time.Since(start); d != 10*time.Millisecond {
			t.Errorf("arrived after %v, want 10ms", d)
		}
		if a.RemoteAddr().String() != "b:1" || b.LocalAddr().String() != "b:1" || a.LocalAddr().String() != b.RemoteAddr().String() {
			t.Error("addresses of the ends do not fit")
		}
		send(t, a, "last")
		a.Close()
		expect(t, b, "last")
		_, err := b.Read(make([]byte, 1))
		wantError(t, err, io.EOF)
		_, err = b.Write([]byte("x"))
		wantError(t, err, syscall.EPIPE)
		_, err = a.Read(make([]byte, 1))
		wantError(t, err, net.ErrClosed)
		b.Close()
		if len(n.streams) != 0 {
			t.Errorf("%d streams are left", len(n.streams))
		}
	})
}

func TestStreamKeepsOrderUnderJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(2, NetOptions{Jitter: time.Second})
		a, b := connected(t, n)
		want := bytes.Repeat([]byte("0123456789"), 100_000)
		done := make(chan error, 1)
		go func() {
			_, err := a.Write(want)
			a.Close()
			done <- err
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(want))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestWriteWaitsForWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{Window: 1000})
		a, b := connected(t, n)
		if err := a.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		wrote, err := a.Write(make([]byte, 1500))
		wantError(t, err, os.ErrDeadlineExceeded)
		if wrote != 1000 {
			t.Fatalf("wrote %d bytes into a window of 1000", wrote)
		}
		if _, err := io.ReadFull(b, make([]byte, 600)); err != nil {
			t.Fatal(err)
		}
		a.SetWriteDeadline(time.Time{})
		if wrote, err = a.Write(make([]byte, 500)); wrote != 500 || err != nil {
			t.Fatalf("wrote %d, %v after the window opened", wrote, err)
		}
	})
}

func TestDeadlineWakesWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{})
		a, _ := connected(t, n)
		done := make(chan error, 1)
		go func() {
			_, err := a.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		a.SetReadDeadline(time.Now().Add(3 * time.Second))
		start := time.Now()
		err := <-done
		wantError(t, err, os.ErrDeadlineExceeded)
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("woke after %v", d)
		}
		go func() {
			a.SetReadDeadline(time.Time{})
			_, err := a.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		a.Close()
		wantError(t, <-done, net.ErrClosed)
	})
}

func TestCutStallsOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{Window: 10})
		a, b := connected(t, n)
		send(t, a, "early")
		time.Sleep(time.Millisecond)
		n.Cut("a", "b")
		expect(t, b, "early") // had arrived
		send(t, a, "held")
		expectSilence(t, b)
		send(t, b, "back works")
		expect(t, a, "back works")
		b.SetWriteDeadline(time.Now().Add(time.Second))
		_, err := b.Write([]byte("x")) // the window is full: acknowledgements are cut
		wantError(t, err, os.ErrDeadlineExceeded)
		b.SetWriteDeadline(time.Time{})
		n.Heal("a", "b")
		expect(t, b, "held")
		send(t, b, "again")
		expect(t, a, "again")
	})
}

func TestCutHoldsEndOfStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{})
		a, b := connected(t, n)
		n.Partition([]string{"a"}, []string{"b", "c"})
		a.Close()
		expectSilence(t, b)
		n.HealAll()
		_, err := b.Read(make([]byte, 1))
		wantError(t, err, io.EOF)
	})
}

func TestDialAcrossCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{DialTimeout: 5 * time.Second})
		connected(t, n)
		n.Cut("b", "a") // the answer is lost
		start := time.Now()
		_, err := n.Host("a").Dial(context.Background(), "b:1")
		wantError(t, err, syscall.ETIMEDOUT)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("gave up after %v", d)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = n.Host("a").Dial(ctx, "b:1")
		wantError(t, err, os.ErrDeadlineExceeded)
		time.AfterFunc(time.Second, func() { n.Heal("b", "a") })
		dial(t, n.Host("a"), "b:1")
	})
}

func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{})
		a, b := connected(t, n)
		host := n.Host("b")
		pc, err := host.ListenPacket(":1")
		if err != nil {
			t.Fatal(err)
		}
		waiting := dial(t, n.Host("a"), "b:1") // not accepted
		n.Kill("b")
		for _, c := range []net.Conn{a, waiting} {
			_, err = c.Read(make([]byte, 1))
			wantError(t, err, syscall.ECONNRESET)
			_, err = c.Write([]byte("x"))
			wantError(t, err, syscall.ECONNRESET)
		}
		_, err = b.Read(make([]byte, 1))
		wantError(t, err, net.ErrClosed)
		_, err = b.Write([]byte("x"))
		wantError(t, err, net.ErrClosed)
		_, _, err = pc.ReadFrom(make([]byte, 1))
		wantError(t, err, net.ErrClosed)
		_, err = n.Host("a").Dial(context.Background(), "b:1")
		wantError(t, err, syscall.ECONNREFUSED)
		_, err = host.Listen(":2")
		wantError(t, err, net.ErrClosed)
		_, err = host.Dial(context.Background(), "a:1")
		wantError(t, err, net.ErrClosed)
		connected(t, n) // the next life
	})
}

func TestKillBehindCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{})
		a, _ := connected(t, n)
		n.Cut("b", "a")
		n.Kill("b")
		expectSilence(t, a)
		n.Heal("b", "a")
		_, err := a.Read(make([]byte, 1))
		wantError(t, err, syscall.ECONNRESET)
	})
}

func TestFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{})
		a, b := connected(t, n)
		send(t, b, "in flight")
		n.Freeze("b")
		expect(t, a, "in flight")
		dial(t, n.Host("a"), "b:1") // the kernel answers
		send(t, a, "question")
		wrote := make(chan error, 1)
		go func() {
			_, err := b.Write([]byte("answer"))
			wrote <- err
		}()
		expectSilence(t, a)
		expectSilence(t, b)
		n.Thaw("b")
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		expect(t, a, "answer")
		expect(t, b, "question")
		n.Freeze("b")
		b.Close() // nobody learns of it
		expectSilence(t, a)
		send(t, a, "more")
		n.Thaw("b")
		_, err := a.Read(make([]byte, 1))
		wantError(t, err, io.EOF)
	})
}

func TestListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{})
		h := n.Host("a")
		l, err := h.Listen("a:0")
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Listen(l.Addr().String())
		wantError(t, err, syscall.EADDRINUSE)
		_, err = h.Listen("b:1")
		wantError(t, err, syscall.EADDRNOTAVAIL)
		for _, bad := range []string{"a", "a:x", "a:70000"} {
			if _, err := h.Listen(bad); err == nil {
				t.Errorf("listens at %q", bad)
			}
		}
		_, err = n.Host("b").Dial(context.Background(), "a:9")
		wantError(t, err, syscall.ECONNREFUSED)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		dial(t, h, "127.0.0.1:"+port)
		for range backlog - 1 {
			dial(t, h, l.Addr().String())
		}
		_, err = h.Dial(context.Background(), l.Addr().String())
		wantError(t, err, syscall.ECONNREFUSED)
		l.Close()
		_, err = l.Accept()
		wantError(t, err, net.ErrClosed)
		if l, err = h.Listen(l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}

// packetPorts opens a:1 and b:1.
func packetPorts(t *testing.T, n *Net) (a, b net.PacketConn) {
	t.Helper()
	a, err := n.Host("a").ListenPacket(":1")
	if err != nil {
		t.Fatal(err)
	}
	if b, err = n.Host("b").ListenPacket(":1"); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// received counts the packets that arrive within a second of silence.
func received(t *testing.T, c net.PacketConn) int {
	t.Helper()
	for n := 0; ; n++ {
		c.SetReadDeadline(time.Now().Add(time.Second))
		_, _, err := c.ReadFrom(make([]byte, 10))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{Latency: time.Millisecond})
		a, b := packetPorts(t, n)
		start := time.Now()
		if _, err := a.WriteTo([]byte("hello"), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		k, from, err := b.ReadFrom(buf)
		if err != nil || string(buf[:k]) != "hello" || from.String() != "a:1" || time.Since(start) != time.Millisecond {
			t.Fatalf("read %q from %v after %v: %v", buf[:k], from, time.Since(start), err)
		}
		_, err = a.WriteTo(make([]byte, maxPacket+1), b.LocalAddr())
		wantError(t, err, syscall.EMSGSIZE)
		n.Cut("a", "b")
		a.WriteTo([]byte("lost"), b.LocalAddr())
		if got := received(t, b); got != 0 {
			t.Errorf("%d packets crossed the cut", got)
		}
		n.Heal("a", "b")
		n.Freeze("b")
		a.WriteTo([]byte("kept"), b.LocalAddr())
		if got := received(t, b); got != 0 {
			t.Errorf("a frozen host read %d packets", got)
		}
		n.Thaw("b")
		if got := received(t, b); got != 1 {
			t.Errorf("%d packets after the thaw, want 1", got)
		}
		b.Close()
		if _, err = a.WriteTo([]byte("nobody"), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_, _, err = b.ReadFrom(buf)
		wantError(t, err, net.ErrClosed)
	})
}

func TestPacketLossFollowsSeed(t *testing.T) {
	count := func(seed uint64) (got int) {
		synctest.Test(t, func(t *testing.T) {
			n := NewNet(seed, NetOptions{Loss: 0.3, Jitter: time.Second})
			a, b := packetPorts(t, n)
			for range 1000 {
				a.WriteTo([]byte("x"), b.LocalAddr())
			}
			got = received(t, b)
		})
		return got
	}
	first := count(7)
	if first < 600 || first > 800 {
		t.Errorf("%d of 1000 packets arrived at a loss of 0.3", first)
	}
	if again := count(7); again != first {
		t.Errorf("seed 7 let %d packets through, then %d", first, again)
	}
}

// Bug: cutting a link that was cut already delivered what the first cut held up.
func TestSecondCutDeliversNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNet(1, NetOptions{})
		a, b := connected(t, n)
		n.Cut("a", "b")
		send(t, a, "held up")
		time.Sleep(time.Second)
		n.Cut("a", "b")
		expectSilence(t, b)
		n.Heal("a", "b")
		expect(t, b, "held up")
	})
}
