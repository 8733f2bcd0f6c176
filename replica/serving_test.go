package replica

import (
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// serves notes for which families clients are served.
type serves struct {
	*replicatest.Engine
	families []sheepdog.FamilyID
}

func (s *serves) Serving(f sheepdog.FamilyID) { s.families = append(s.families, f) }

// Bug: the store took whatever it was asked to read for served here, so that background
// checks, which read all there is, kept the blocks of all families in the host's memory.
func TestOnlyClientsCountAsServed(t *testing.T) {
	b := newBench(t)
	e := &serves{Engine: b.engine}
	b.server.cfg.Engine = e
	wrote := func(gateway sheepdog.Incarnation, seq uint64) func() {
		return func() {
			r := request(seq)
			r.Origin = sheepdog.Origin{Gateway: gateway, Request: seq}
			b.mustWrite(r)
		}
	}
	fetch := func(r *sheepdog.FetchRequest) {
		if _, err := b.fetch(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		do     func()
		served bool
	}{
		{"a write through another node", wrote(2, 1), false},
		{"a write through this one", wrote(1, 2), true},
		{"a repair", func() { b.mustWrite(repair(sheepdog.Stamp{Token: 3, Seq: 3})) }, false},
		{"a check", func() { r := b.target(4, 2); r.Verify = true; fetch(r) }, false},
		{"a copy for recovery", func() { r := b.target(4, 2); r.WithData = true; fetch(r) }, false},
		{"a read", func() {
			if _, err := b.read(10, 3); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		e.families = nil
		c.do()
		if slices.Contains(e.families, fam) != c.served {
			t.Errorf("%s: served are %v", c.name, e.families)
		}
	}
}
