package cluster

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
)

func newTestFSM() (*fsm, *logMachine) {
	m := &logMachine{}
	return &fsm{
		state: state.New(), machine: m, requests: newRequests(), pub: newPublished(),
		onGeneration: func(uint64) error { return nil }, failed: func(error) {}, log: slog.New(slog.DiscardHandler),
	}, m
}

// apply runs an entry at an index.
func apply(t *testing.T, f *fsm, index uint64, e entry) outcome {
	t.Helper()
	b, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	return f.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: b}).(outcome)
}

func formatEntry(t *testing.T) entry {
	t.Helper()
	body, err := state.Command{Format: &state.Format{
		Cluster: sheepdog.ClusterID{1}, Config: testConfig,
		Members: []sheepdog.Member{{ID: 1, Incarnation: 1, Addr: "10.0.0.1:7000", VNodes: 1}},
	}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return entry{Type: entryState, Body: body}
}

func command(seq, done uint64, body string) entry {
	return entry{request: request{Client: 5, Seq: seq, Done: done}, Type: entryMachine, Body: []byte(body)}
}

func TestRetriedCommandIsAppliedOnce(t *testing.T) {
	f, m := newTestFSM()
	apply(t, f, 1, formatEntry(t))
	first := apply(t, f, 2, command(1, 0, "a"))
	again := apply(t, f, 3, command(1, 0, "a"))
	if again.Index != 2 || !bytes.Equal(first.Result, again.Result) {
		t.Errorf("retry answered %+v after %+v", again, first)
	}
	apply(t, f, 4, command(2, 1, "b"))
	late := apply(t, f, 5, command(1, 0, "a"))
	if _, err := late.value(); !errors.Is(err, sheepdog.ErrConflict) {
		t.Errorf("a retry after its answer was dropped: %v", err)
	}
	if got := m.list(); len(got) != 2 {
		t.Errorf("applied %v", got)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	f, _ := newTestFSM()
	apply(t, f, 1, formatEntry(t))
	for i := uint64(1); i < 2000; i++ {
		apply(t, f, i+1, command(i, 0, "x")) // a client that never says it is done
	}
	if n := len(f.requests.clients[5].Answers); n > 2*maxInFlight {
		t.Errorf("%d answers are kept", n)
	}
	for i := uint64(0); i < maxClients+50; i++ {
		e := command(1, 0, "x")
		e.Client = sheepdog.Incarnation(100 + i)
		apply(t, f, 3000+i, e)
	}
	if n := len(f.requests.clients); n > maxClients {
		t.Errorf("%d clients are kept", n)
	}
	if _, ok := f.requests.clients[5]; ok {
		t.Error("the client that was quiet longest is still there")
	}
}

func TestCommandOfAnotherMembershipIsNotApplied(t *testing.T) {
	f, m := newTestFSM()
	apply(t, f, 1, formatEntry(t))
	e := command(1, 0, "a")
	e.Membership = membershipOf(1, 2)
	if o := apply(t, f, 2, e); o.Code != codeGateAgain {
		t.Errorf("answered %+v", o)
	}
	e.Membership = membershipOf(1, 1)
	if o := apply(t, f, 3, e); o.Code != 0 || len(m.list()) != 1 {
		t.Errorf("answered %+v, applied %v", o, m.list())
	}
}

type memorySink struct{ bytes.Buffer }

func (*memorySink) Close() error  { return nil }
func (*memorySink) Cancel() error { return nil }
func (*memorySink) ID() string    { return "test" }

func TestSnapshotBringsEverythingBack(t *testing.T) {
	f, _ := newTestFSM()
	apply(t, f, 1, formatEntry(t))
	apply(t, f, 2, command(1, 0, "a"))
	f.StoreConfiguration(3, raft.Configuration{})
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var sink memorySink
	if err := snap.Persist(&sink); err != nil {
		t.Fatal(err)
	}
	g, m := newTestFSM()
	if err := g.Restore(io.NopCloser(bytes.NewReader(sink.Bytes()))); err != nil {
		t.Fatal(err)
	}
	if g.pub.index() != 3 || g.pub.view() == nil || g.pub.view().Epoch != 1 || len(m.list()) != 1 {
		t.Errorf("restored index %d, view %+v, commands %v", g.pub.index(), g.pub.view(), m.list())
	}
	if o := apply(t, g, 4, command(1, 0, "a")); o.Index != 2 || len(m.list()) != 1 {
		t.Errorf("a retry after the restore answered %+v", o)
	}
	for n := 0; n < sink.Len(); n += 1 + sink.Len()/40 {
		h, _ := newTestFSM()
		if h.Restore(io.NopCloser(bytes.NewReader(sink.Bytes()[:n]))) == nil {
			t.Fatalf("%d of %d bytes were restored", n, sink.Len())
		}
	}
}

// Bug: nothing was applied while the directory was encoded, which takes 0.1 s with 10,000
// VDIs.
func TestSnapshotIsEncodedBesideApply(t *testing.T) {
	f, m := newTestFSM()
	apply(t, f, 1, formatEntry(t))
	apply(t, f, 2, command(1, 0, "a"))
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	apply(t, f, 3, command(2, 0, "b"))
	var sink memorySink
	if err := snap.Persist(&sink); err != nil {
		t.Fatal(err)
	}
	g, restored := newTestFSM()
	if err := g.Restore(io.NopCloser(&sink)); err != nil {
		t.Fatal(err)
	}
	if g.pub.index() != 2 || len(restored.list()) != 1 || len(m.list()) != 2 {
		t.Errorf("restored index %d, commands %v; the node has %v", g.pub.index(), restored.list(), m.list())
	}
}

func TestEntryOfTheFutureStopsTheNode(t *testing.T) {
	f, m := newTestFSM()
	var failed error
	f.failed = func(err error) { failed = err }
	apply(t, f, 1, formatEntry(t))
	f.Apply(&raft.Log{Index: 2, Data: []byte{entryVersion + 1, 3}})
	if failed == nil {
		t.Fatal("the node goes on")
	}
	apply(t, f, 3, command(1, 0, "a"))
	if len(m.list()) != 0 || f.pub.index() != 1 {
		t.Errorf("applied %v up to %d", m.list(), f.pub.index())
	}
	if _, err := f.Snapshot(); err == nil {
		t.Error("a broken state was saved")
	}
}

func TestStoreThatIsNotWipedStopsTheNode(t *testing.T) {
	f, _ := newTestFSM()
	f.onGeneration = func(uint64) error { return errTest }
	var failed error
	f.failed = func(err error) { failed = err }
	apply(t, f, 1, formatEntry(t))
	if !errors.Is(failed, errTest) || f.pub.view() != nil {
		t.Errorf("failed with %v, view %v", failed, f.pub.view())
	}
}

// watchedMachine notes the revision that is published when it is asked for anything.
type watchedMachine struct {
	logMachine
	pub  *published
	seen []sheepdog.Revision
}

func (m *watchedMachine) Apply(index uint64, kind string, body []byte) ([]byte, error) {
	m.seen = append(m.seen, m.pub.view().Revision)
	return m.logMachine.Apply(index, kind, body)
}

// Steps of recovery that are committed together are one view; a command of the
// directory among them finds the view of those before it.
func TestStepsThatFollowEachOtherMakeOneView(t *testing.T) {
	f, _ := newTestFSM()
	m := &watchedMachine{pub: f.pub}
	f.machine = m
	apply(t, f, 1, formatEntry(t))
	join := state.Change{Join: []sheepdog.Member{{ID: 2, Incarnation: 2, Addr: "10.0.0.2:7000", Zone: 2, VNodes: 1}}}
	apply(t, f, 2, stateEntry(t, state.Command{Change: &join}))
	before := f.pub.view()
	promote := func(p sheepdog.Partition) entry {
		items := state.Items{{Partition: p, Since: before.Revision}}
		return stateEntry(t, state.Command{Promote: &state.Promote{Policy: testConfig.Policy, Node: 2, Incarnation: 2, Items: items}})
	}
	batch := []entry{promote(1), promote(2), command(1, 0, "a"), promote(3), promote(4), promote(5)}
	var logs []*raft.Log
	for i, e := range batch {
		b, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, &raft.Log{Index: uint64(3 + i), Type: raft.LogCommand, Data: b})
	}
	changed := f.pub.changed(before)
	for i, o := range f.ApplyBatch(logs) {
		if _, err := o.(outcome).value(); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	<-changed
	if want := before.Revision + 2; len(m.seen) != 1 || m.seen[0] != want {
		t.Errorf("the directory was asked under revisions %v, want %d", m.seen, want)
	}
	after := f.pub.view()
	if after.Revision != before.Revision+5 || f.pub.index() != 8 {
		t.Errorf("revision %d at index %d, want %d at 8", after.Revision, f.pub.index(), before.Revision+5)
	}
	for p := range sheepdog.Partition(7) {
		now, _ := after.Placement(testConfig.Policy, p)
		old, _ := before.Placement(testConfig.Policy, p)
		if want := p >= 1 && p <= 5; now.IsActing(2) != want || old.IsActing(2) {
			t.Errorf("partition %d: node 2 acts: %v, want %v; in the view before: %v", p, now.IsActing(2), want, old.IsActing(2))
		}
	}
}

func stateEntry(t *testing.T, cmd state.Command) entry {
	t.Helper()
	body, err := cmd.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return entry{Type: entryState, Body: body}
}
