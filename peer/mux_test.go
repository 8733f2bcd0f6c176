package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
)

// muxOf makes a mux on loopback that is closed with the test.
func muxOf(t *testing.T, opts MuxOptions) *Mux {
	t.Helper()
	l, err := HostNetwork().Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMux(l, opts)
	t.Cleanup(func() { m.Close() })
	return m
}

// serveEcho answers every stream of a kind with the kind and what was sent.
func serveEcho(t *testing.T, m *Mux, kind Kind) {
	t.Helper()
	l, err := m.Listen(kind)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				fmt.Fprintf(c, "%s:", kind)
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

func serveHTTP(t *testing.T, m *Mux) {
	t.Helper()
	l, err := m.Listen(KindHTTP)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, len(body))
	})}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
}

func httpPost(t *testing.T, addr, path string, size int) string {
	t.Helper()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Post("http://"+addr+path, "text/plain", strings.NewReader(strings.Repeat("x", size)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func echoOver(t *testing.T, d Dialer, kind Kind, addr string) string {
	t.Helper()
	c, err := d.Dial(testContext(t), kind, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(kind.String())+6)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestMuxSortsByFirstBytes(t *testing.T) {
	m := muxOf(t, MuxOptions{Cluster: fixed(testCluster)})
	d := Dialer{HostNetwork(), fixed(testCluster)}
	addr := m.Addr().String()
	for _, kind := range []Kind{KindPeer, KindRaft, KindGossip} {
		serveEcho(t, m, kind)
	}
	serveHTTP(t, m)
	for _, kind := range []Kind{KindPeer, KindRaft, KindGossip} {
		if got := echoOver(t, d, kind, addr); got != kind.String()+":hello" {
			t.Errorf("%s: %q", kind, got)
		}
	}
	if got := httpPost(t, addr, "/v1/x", 100_000); got != "POST /v1/x 100000" {
		t.Errorf("http: %q", got)
	}
	unformatted := Dialer{HostNetwork(), fixed(sheepdog.ClusterID{})}
	if got := echoOver(t, unformatted, KindGossip, addr); got != "gossip:hello" {
		t.Errorf("gossip of a fresh node: %q", got)
	}
}

func TestMuxRefusesWhatNobodyServes(t *testing.T) {
	m := muxOf(t, MuxOptions{})
	d := Dialer{HostNetwork(), fixed(testCluster)}
	_, err := d.Dial(testContext(t), KindRaft, m.Addr().String())
	wantError(t, err, sheepdog.ErrClosed)
	l, err := m.Listen(KindRaft)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Listen(KindRaft)
	wantError(t, err, sheepdog.ErrExists)
	l.Close()
	_, err = l.Accept()
	wantError(t, err, net.ErrClosed)
	if l, err = m.Listen(KindRaft); err != nil {
		t.Fatal(err)
	}
	m.Close()
	_, err = l.Accept()
	wantError(t, err, net.ErrClosed)
	_, err = m.Listen(KindPeer)
	wantError(t, err, sheepdog.ErrClosed)
}

func TestMuxRefusesAnotherVersion(t *testing.T) {
	m := muxOf(t, MuxOptions{})
	c, err := net.Dial("tcp", m.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := preamble{kind: KindPeer, version: sheepdog.ProtocolVersion + 1}
	_, err = exchangePreambles(c, p)
	wantError(t, err, errVersion)
}

// TestHostileBytesHurtNobody throws bytes at the port of a node while a good
// client works.
func TestHostileBytesHurtNobody(t *testing.T) {
	n := startNode(t, HostNetwork(), "127.0.0.1:0", echo(), Options{})
	serveHTTP(t, n.mux)
	good := startPool(t, HostNetwork(), Options{}).Client(n.member)
	greeting := appendPreamble(nil, preamble{kind: KindPeer, version: 1, cluster: testCluster})
	hi := helloFrame(kindHello, hello{node: 7, cluster: testCluster})
	frameOf := func(h header, meta ...byte) []byte {
		h.meta, h.metaCRC = uint32(len(meta)), checksum(meta)
		return append(appendHeader(nil, h), meta...)
	}
	huge := frameOf(header{kind: kindWrite, data: maxFrame})
	badCRC := frameOf(header{kind: kindRead, id: 1}, 1, 2, 3)
	badCRC[len(badCRC)-1] ^= 1
	flood := bytes.Repeat(frameOf(header{kind: kindControl, id: 1}, 'x'), 10_000)
	for name, b := range map[string][]byte{
		"zeros":             make([]byte, 1000),
		"half a preamble":   greeting[:10],
		"unknown kind":      append(append([]byte(preambleMark), 99, 1), make([]byte, 16)...),
		"no hello":          append(bytes.Clone(greeting), bytes.Repeat([]byte{0xff}, 1000)...),
		"ping as hello":     append(bytes.Clone(greeting), frameOf(header{kind: kindPing})...),
		"huge hello":        append(bytes.Clone(greeting), appendHeader(nil, header{kind: kindHello, meta: maxMeta})...),
		"huge frame":        bytes.Join([][]byte{greeting, hi, huge}, nil),
		"garbage frame":     bytes.Join([][]byte{greeting, hi, bytes.Repeat([]byte("SF"), 500)}, nil),
		"bad checksum":      bytes.Join([][]byte{greeting, hi, badCRC}, nil),
		"short requests":    bytes.Join([][]byte{greeting, hi, frameOf(header{kind: kindWrite}), frameOf(header{kind: kindRead}, 1), frameOf(header{kind: kindForward}), frameOf(header{kind: kindHello})}, nil),
		"unknown requests":  bytes.Join([][]byte{greeting, hi, frameOf(header{kind: 77}), frameOf(header{kind: kindReply | kindWrite}), frameOf(header{kind: kindCancel, id: 5})}, nil),
		"unread replies":    bytes.Join([][]byte{greeting, hi, flood}, nil),
		"http that is none": []byte("\r\n\r\nGARBAGE / \xff\xff\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", n.member.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = c.Write(b) // may be cut off
			if err := writeAll(t, good, testContext(t), writeRequest(blocks(1, 1), 1))[0]; err != nil {
				t.Errorf("a good write: %v", err)
			}
			if got := httpPost(t, n.member.Addr, "/", 1); got != "POST / 1" {
				t.Errorf("a good HTTP request: %q", got)
			}
		})
	}
}

// TestMalformedRequestIsAnswered: what is framed well but makes no sense gets an
// error and does not cost the connection.
func TestMalformedRequestIsAnswered(t *testing.T) {
	c := pair(t, echo())
	for _, kind := range []frameKind{kindRead, kindFlush, kindSeal, kindList, kindFetch, kindForward, 99} {
		l, err := c.small.acquire(testContext(t), true)
		wantError(t, err, nil)
		err = l.do(testContext(t), &frame{kind: kind, meta: []byte{1}}, &call{sink: noReply{}, done: make(chan struct{}, 1)})
		wantError(t, err, sheepdog.ErrInvalid)
		if c.link(1) != l {
			t.Errorf("%s: the connection was lost", kind)
		}
	}
}

// TestSlowLorisMakesRoom: connections that say nothing are sent away in favour
// of new ones, and after a while anyhow.
func TestSlowLorisMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNet(1, sim.NetOptions{})
		l, err := n.Host("b").Listen(":1")
		if err != nil {
			t.Fatal(err)
		}
		m := NewMux(l, MuxOptions{MaxSniffing: 10})
		defer m.Close()
		serveEcho(t, m, KindRaft)
		var silent []net.Conn
		for range 50 {
			c, err := n.Host("x").Dial(context.Background(), "b:1")
			if err != nil {
				t.Fatal(err)
			}
			c.Write([]byte{0}) // the first byte of a preamble
			silent = append(silent, c)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := m.sniffing.Len(); got > 10 {
			t.Errorf("%d connections are being sniffed at", got)
		}
		d := Dialer{n.Host("a"), fixed(testCluster)}
		if got := echoOver(t, d, KindRaft, "b:1"); got != "raft:hello" {
			t.Errorf("a good stream: %q", got)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if got := m.sniffing.Len(); got != 0 {
			t.Errorf("%d silent connections are left after the time-out", got)
		}
		for _, c := range silent {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a silent connection was answered")
			}
			c.Close()
		}
	})
}

// TestStreamsNobodyAcceptsEnd: a listener that is not served does not collect
// connections for ever.
func TestStreamsNobodyAcceptsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNet(1, sim.NetOptions{})
		l, err := n.Host("b").Listen(":1")
		if err != nil {
			t.Fatal(err)
		}
		refused := make(chan error, 10)
		m := NewMux(l, MuxOptions{MaxSniffing: 2, OnRefused: func(_ net.Addr, err error) { refused <- err }})
		defer m.Close()
		if _, err := m.Listen(KindRaft); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			c, err := (Dialer{n.Host("a"), fixed(testCluster)}).Dial(context.Background(), KindRaft, "b:1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		wantError(t, <-refused, sheepdog.ErrBusy)
		time.Sleep(6 * time.Second)
		if len(refused) != 2 {
			t.Errorf("%d streams were given up, want 2", len(refused))
		}
	})
}

func TestDialHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNet(1, sim.NetOptions{})
		l, err := n.Host("b").Listen(":1") // accepts nothing, answers nothing
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = Dialer{n.Host("a"), fixed(testCluster)}.Dial(ctx, KindPeer, "b:1")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v", err)
		}
	})
}
