package replica

import (
	"bytes"
	"context"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// long is how many blocks the engine of these tests writes past the host's memory.
const long = 16

// slowDisk is an Engine whose direct writes wait for a disk that stands still until go on
// is closed.
type slowDisk struct {
	*replicatest.Engine
	goOn chan struct{}
}

func (e *slowDisk) Directly(_ sheepdog.FamilyID, n int) bool { return n >= long*sheepdog.BlockSize }

func newSlowDisk(b *bench) *slowDisk {
	e := &slowDisk{b.engine, make(chan struct{})}
	b.server.cfg.Engine = e
	b.engine.OnWrite = func(ops []sheepdog.Op) {
		for i := range ops {
			if ops[i].Unread {
				<-e.goOn
			}
		}
	}
	return e
}

// longRequest is a write of long blocks from the given one on, in a stream.
func longRequest(start sheepdog.BlockNo, seq uint64) *sheepdog.WriteRequest {
	r := request(seq)
	r.Start, r.Count, r.Data = start, long, fill(r.Stamp, long)
	r.Origin, r.OriginDone = sheepdog.Origin{Gateway: 2, Request: 10 + seq}, 9+seq
	return r
}

// Whoever brings long writes that nobody reads here goes on while the disk takes them: what
// comes with them and after them is answered, each once, and writes of the same blocks end
// as their stamps say.
func TestLongWritesHoldNobodyUp(t *testing.T) {
	b := newBench(t)
	b.layers.Lead(fam, 2)
	e := newSlowDisk(b)
	type answer struct {
		i   int
		err error
	}
	answers := make(chan answer, 8)
	done := func(i int, err error) { answers <- answer{i, err} }
	want := func(at int) {
		t.Helper()
		if a := <-answers; a.err != nil || a.i != at {
			t.Fatalf("request %d was answered with %v, want request %d", a.i, a.err, at)
		}
	}
	b.server.Write(context.Background(), []*sheepdog.WriteRequest{longRequest(100, 1), request(2), nil, longRequest(200, 3), request(4)}, done)
	if a := <-answers; a.i != 2 || a.err == nil {
		t.Fatalf("no request: answered as %d with %v", a.i, a.err)
	}
	want(1)
	want(4)
	newer := request(9)
	newer.Start = 101
	b.server.Write(context.Background(), []*sheepdog.WriteRequest{newer}, done)
	want(0)
	select {
	case a := <-answers:
		t.Fatalf("request %d was answered before the disk had it (%v)", a.i, a.err)
	default:
	}
	close(e.goOn)
	seen := [5]bool{}
	for range 2 {
		a := <-answers
		if a.err != nil || seen[a.i] {
			t.Fatalf("request %d, answered before %v: %v", a.i, seen[a.i], a.err)
		}
		seen[a.i] = true
	}
	if !seen[0] || !seen[3] {
		t.Fatalf("answered are %v", seen)
	}
	for _, c := range []struct {
		at  sheepdog.BlockNo
		seq uint64
	}{{100, 1}, {101, 9}, {102, 9}, {103, 1}, {100 + long - 1, 1}, {200, 3}, {200 + long - 1, 3}, {4, 4}} {
		if got := b.record(c.at).Stamp.Seq; got != c.seq {
			t.Errorf("block %d has the stamp %d, want %d", c.at, got, c.seq)
		}
	}
}

// Only what another replica is read for waits for the disk, whatever the engine would do; and
// what waits becomes what it would have become otherwise.
func TestWhatIsSetApart(t *testing.T) {
	for _, c := range []struct {
		name   string
		leader sheepdog.NodeID
		acting []sheepdog.NodeID
		blocks uint32
		before uint64 // the oldest request in flight of its gateway is so many back
		repair bool
		want   bool
	}{
		{"a stream whose coordinator reads its own replica", 2, nodes(1, 2, 3), long, 1, false, true},
		{"short", 2, nodes(1, 2, 3), long - 1, 1, false, false},
		{"no stream", 2, nodes(1, 2, 3), long, 0, false, false},
		{"the coordinator is here", self, nodes(1, 2, 3), long, 1, false, false},
		{"there is none", 0, nodes(1, 2, 3), long, 1, false, false},
		{"the coordinator's replica does not act", 2, nodes(1, 3), long, 1, false, false},
		{"it has none", 9, nodes(1, 2, 3), long, 1, false, false},
		{"this one does not act", 2, nodes(2, 3), long, 1, false, false},
		{"a repair", 2, nodes(1, 2, 3), long, 1, true, false},
	} {
		b := newBenchIn(t, replicatest.NewView(10, nodes(1, 2, 3), c.acting, nodes(1, 2, 3)))
		b.layers.Lead(fam, c.leader)
		b.server.cfg.Engine = &slowDisk{Engine: b.engine}
		unread := false
		b.engine.OnWrite = func(ops []sheepdog.Op) { unread = ops[0].Unread }
		r := longRequest(8, 5)
		r.Count, r.Data, r.OriginDone = c.blocks, fill(r.Stamp, c.blocks), r.Origin.Request-c.before
		if r.Repair = c.repair; r.Repair {
			r.Token = 0
		}
		done := make(chan error, 2)
		b.server.Write(context.Background(), []*sheepdog.WriteRequest{r}, func(_ int, err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if unread != (c.want || c.repair) {
			t.Errorf("%s: unread is %v", c.name, unread)
		}
		buf, states := make([]byte, len(r.Data)), make([]sheepdog.BlockState, r.Count)
		err := b.engine.Read(object, []sheepdog.LayerID{top}, r.Start, r.Count, buf, states)
		if err != nil || !bytes.Equal(buf, r.Data) || b.record(8).Stamp != r.Stamp {
			t.Errorf("%s: something else was written (%v)", c.name, err)
		}
	}
}

// A stream stays one for a while after its writes have company no more, and each family is
// looked at alone.
func TestStreamsEnd(t *testing.T) {
	var s streams
	r := sheepdog.WriteRequest{Object: object}
	note := func(request, oldest uint64) bool {
		r.Origin.Request, r.OriginDone = request, oldest
		return s.note(&r)
	}
	if note(1, 1) {
		t.Error("a write without company is a stream")
	}
	if !note(3, 2) {
		t.Error("a write with company is none")
	}
	r.Object.Family++
	if note(4, 4) {
		t.Error("a write of another family is one")
	}
	r.Object.Family--
	for i := range uint64(streamKept + 2) {
		if got := note(5+i, 5+i); got != (i < streamKept) {
			t.Errorf("write %d without company: in a stream is %v", i+1, got)
		}
	}
}
