package replica

import (
	"context"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// behind is an engine that is behind because of one family.
type behind struct {
	*replicatest.Engine
	greedy sheepdog.FamilyID
	room   chan struct{}
}

func (e *behind) Crowded(f sheepdog.FamilyID) bool { return f == e.greedy }

func (e *behind) AwaitRoom(context.Context, sheepdog.FamilyID) { <-e.room }

// TestOthersPassAFamilyThatIsHeldBack sends one batch of two families: the caller, the
// reader of a connection, gets the one's answers at once, and is not held up by the
// other.
func TestOthersPassAFamilyThatIsHeldBack(t *testing.T) {
	b := newBench(t)
	const modest, layer = fam + 1, top + 1
	b.layers.Add(layer, modest, 0)
	b.layers.Appoint(modest, 3)
	engine := &behind{Engine: b.engine, greedy: fam, room: make(chan struct{})}
	b.server = New(Config{Self: self, Incarnation: 1, Engine: engine, Views: b.views, Layers: b.layers})
	reqs := []*sheepdog.WriteRequest{request(1), request(2), request(3), repair(sheepdog.Stamp{Token: 2, Seq: 9}), nil}
	reqs[1].Object.Family, reqs[1].Layer = modest, layer
	type answer struct {
		i   int
		err error
	}
	answers := make(chan answer, len(reqs))
	b.server.Write(t.Context(), reqs, func(i int, err error) { answers <- answer{i, err} })
	if n := len(answers); n != 3 {
		t.Fatalf("%d answers at once, want those of the modest family, of the repair and of nothing", n)
	}
	for range 3 {
		if a := <-answers; a.i == 0 || a.i == 2 || (a.err != nil) != (a.i == 4) {
			t.Errorf("request %d: %v", a.i, a.err)
		}
	}
	close(engine.room)
	for range 2 {
		if a := <-answers; a.i != 0 && a.i != 2 || a.err != nil {
			t.Errorf("request %d: %v", a.i, a.err)
		}
	}
	if got := b.record(4).Stamp; got != reqs[2].Stamp {
		t.Errorf("the block has stamp %v, want that of the last write held back", got)
	}
}
