package peer

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
)

func echo() *fakeHandler {
	return &fakeHandler{control: func(_ context.Context, _ sheepdog.NodeID, method string, body []byte) ([]byte, error) {
		return body, nil
	}}
}

func TestWrongClusterIsRefusedAtBothEnds(t *testing.T) {
	n := startNode(t, HostNetwork(), "127.0.0.1:0", echo(), Options{})
	var seen reports
	p := startPool(t, HostNetwork(), Options{Cluster: fixed(sheepdog.ClusterID{9}), OnBroken: seen.add})
	c := p.Client(n.member)
	wantError(t, writeAll(t, c, testContext(t), writeRequest(nil, 1))[0], sheepdog.ErrWrongCluster)
	_, err := p.Call(testContext(t), n.member.Addr, "echo", nil)
	wantError(t, err, sheepdog.ErrWrongCluster)
	wantError(t, <-n.refused, sheepdog.ErrWrongCluster)
	for _, kind := range []Kind{KindRaft, KindGossip} {
		_, err := Dialer{HostNetwork(), fixed(sheepdog.ClusterID{9})}.Dial(testContext(t), kind, n.member.Addr)
		wantError(t, err, sheepdog.ErrWrongCluster)
	}
	for _, b := range seen.take() {
		if b.Reason != WrongCluster {
			t.Errorf("reported %v", b)
		}
	}
}

// TestHelloChecksClusterToo covers a node that was formatted between preamble
// and hello.
func TestHelloChecksClusterToo(t *testing.T) {
	n := startNode(t, HostNetwork(), "127.0.0.1:0", echo(), Options{})
	var asked atomic.Int32
	changing := func() sheepdog.ClusterID {
		if asked.Add(1) == 1 {
			return testCluster
		}
		return sheepdog.ClusterID{9}
	}
	p := startPool(t, HostNetwork(), Options{Cluster: changing})
	_, err := p.Call(testContext(t), n.member.Addr, "echo", nil)
	wantError(t, err, sheepdog.ErrWrongCluster)
}

func TestUnformattedNodesMayOnlyControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b sheepdog.ClusterID
		n := sim.NewNet(1, sim.NetOptions{})
		node := startNode(t, n.Host("b"), ":7000", echo(), Options{Node: 2, Incarnation: 22, Cluster: func() sheepdog.ClusterID { return b }})
		var seen reports
		c := startPool(t, n.Host("a"), Options{Cluster: func() sheepdog.ClusterID { return a }, OnBroken: seen.add}).Client(node.member)
		check := func(want error) {
			t.Helper()
			if got, err := c.Call(t.Context(), "echo", []byte("x")); err != nil || string(got) != "x" {
				t.Fatalf("control: %q, %v", got, err)
			}
			for _, err := range []error{
				writeAll(t, c, t.Context(), writeRequest(nil, 1))[0],
				writeAll(t, c, t.Context(), writeRequest(blocks(16, 1), 16))[0],
			} {
				if !errors.Is(err, want) {
					t.Fatalf("write: %v, want %v", err, want)
				}
			}
		}
		check(sheepdog.ErrNotFormatted)
		a = testCluster // we are formatted, the other end not yet
		check(sheepdog.ErrNotFormatted)
		check(sheepdog.ErrNotFormatted)
		b = testCluster
		time.Sleep(time.Second) // connections greet again, but not all the time
		check(nil)
		if got := seen.take(); len(got) != 0 {
			t.Errorf("reported %v", got)
		}
	})
}

// TestFormattingKeepsCallsInFlight: greeting again does not break a control
// call that waits on the older connection, however long.
func TestFormattingKeepsCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var id sheepdog.ClusterID
		cluster := func() sheepdog.ClusterID { return id }
		release := make(chan struct{})
		h := &fakeHandler{control: func(context.Context, sheepdog.NodeID, string, []byte) ([]byte, error) {
			<-release
			return []byte("joined"), nil
		}}
		n := sim.NewNet(1, sim.NetOptions{})
		node := startNode(t, n.Host("b"), ":7000", h, Options{Node: 2, Incarnation: 22, Cluster: cluster})
		c := startPool(t, n.Host("a"), Options{Cluster: cluster}).Client(node.member)
		joined := make(chan string, 1)
		go func() {
			body, err := c.Call(context.Background(), "join", nil)
			joined <- string(body) + errorText(err)
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		id = testCluster
		if err := writeAll(t, c, t.Context(), writeRequest(blocks(16, 1), 16))[0]; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		close(release)
		if got := <-joined; got != "joined" {
			t.Fatalf("join: %s", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := len(node.server.sessions); got != 1 {
			t.Errorf("%d sessions, want 1: the older connection should have been closed", got)
		}
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestAnotherLifeIsUnreachable(t *testing.T) {
	n := startNode(t, HostNetwork(), "127.0.0.1:0", echo(), Options{})
	p := startPool(t, HostNetwork(), Options{})
	for name, change := range map[string]func(*sheepdog.Member){
		"another incarnation": func(m *sheepdog.Member) { m.Incarnation++ },
		"another node":        func(m *sheepdog.Member) { m.ID++ },
	} {
		m := n.member
		change(&m)
		err := writeAll(t, p.Replica(m), testContext(t), writeRequest(nil, 1))[0]
		wantError(t, err, sheepdog.ErrUnreachable)
		var b *BrokenError
		if !errors.As(err, &b) || b.Reason != WrongNode {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.Call(testContext(t), n.member.Addr, "echo", nil); err != nil {
		t.Errorf("anybody: %v", err)
	}
}

func TestServerBoundsSessions(t *testing.T) {
	n := startNode(t, HostNetwork(), "127.0.0.1:0", echo(), Options{Node: 2, Incarnation: 22, MaxSessions: 1})
	if _, err := startPool(t, HostNetwork(), Options{}).Call(testContext(t), n.member.Addr, "echo", nil); err != nil {
		t.Fatal(err)
	}
	_, err := startPool(t, HostNetwork(), Options{}).Call(testContext(t), n.member.Addr, "echo", nil)
	wantError(t, err, sheepdog.ErrUnreachable)
}
