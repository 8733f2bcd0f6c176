package peer

import (
	"testing"

	"sheepdog"
)

// A client that was dropped is not handed out again, also not past the lock.
func TestDroppedClientIsNotFoundAgain(t *testing.T) {
	p := startPool(t, HostNetwork(), Options{})
	m := sheepdog.Member{ID: 2, Incarnation: 22, Addr: "127.0.0.1:1"}
	twin := sheepdog.Member{ID: 3, Incarnation: m.Incarnation + latestClients, Addr: m.Addr}
	for range 2 {
		c := p.Client(m)
		if p.Client(m) != c || p.Client(twin) == c || p.Client(m) != c {
			t.Fatal("a member has several clients, or the one of another")
		}
		p.Retain([]sheepdog.Member{twin})
		if p.Client(m) == c {
			t.Fatal("a client was handed out after it was dropped")
		}
		p.Retain(nil)
	}
	other := m
	other.Addr = "127.0.0.1:2"
	if p.Client(other) == p.Client(m) {
		t.Error("a member is taken for one at another address")
	}
}
