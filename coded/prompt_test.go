package coded

import (
	"testing"

	"sheepdog"
)

// prompt is a replica that has everything at hand.
type prompt struct {
	sheepdog.Replica
	asked int
}

func (p *prompt) TryRead(*sheepdog.ReadRequest) bool { p.asked++; return true }

// Bug: the server of strips in front of this node's replica hid that it can read at
// once, so that every read took a goroutine: twice the CPU.
func TestPromptReadsGoThrough(t *testing.T) {
	inner := &prompt{}
	var own sheepdog.Replica = &Server{Replica: inner}
	s, ok := own.(sheepdog.PromptReplica)
	if !ok {
		t.Fatal("it cannot read at once")
	}
	if !s.TryRead(&sheepdog.ReadRequest{Policy: sheepdog.Policy{Copies: 3}}) || inner.asked != 1 {
		t.Error("a read of a replica is not passed on")
	}
	strips := sheepdog.Policy{Copies: 4, Parity: 2}.Strips()
	if s.TryRead(&sheepdog.ReadRequest{Policy: strips}) || inner.asked != 1 {
		t.Error("a strip was read")
	}
	if (&Server{}).TryRead(&sheepdog.ReadRequest{}) {
		t.Error("something was read without a replica")
	}
}
