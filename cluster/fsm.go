package cluster

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
)

// fsm is the combined state machine: the membership and placement in package
// state, the Machine, and the answers kept for retries. Raft calls it from one
// goroutine; only pub and retired may be used by others.
type fsm struct {
	state    *state.State
	machine  Machine
	requests *requests
	pub      *published

	generation   uint64 // of the last call of onGeneration
	onGeneration func(uint64) error
	// held is the index of the newest entry that is applied and not published yet;
	// 0: there is none.
	held uint64
	// failed is called once when this node must not go on: an entry of a newer
	// version, or a store that could not be wiped.
	failed func(error)
	broken error
	log    *slog.Logger
}

var (
	_ raft.BatchingFSM        = (*fsm)(nil)
	_ raft.ConfigurationStore = (*fsm)(nil)
)

// Apply is ApplyBatch for one entry.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch runs entries that were committed together; the answers are outcomes.
// What they changed is published before the proposers hear of it. Steps of
// recovery that follow each other share one view: in a large cluster every node
// looks at each, and they come by the hundred.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		if l.Type == raft.LogConfiguration {
			f.release()
			f.StoreConfiguration(l.Index, raft.DecodeConfiguration(l.Data))
			continue
		}
		out[i] = f.apply(l)
	}
	f.release()
	return out
}

func (f *fsm) apply(l *raft.Log) outcome {
	if f.broken != nil {
		return outcomeOf(l.Index, nil, f.broken)
	}
	e, err := decodeEntry(l.Data)
	var format errEntryFormat
	if errors.As(err, &format) {
		f.fail(fmt.Errorf("log entry %d: %w", l.Index, err))
		return outcomeOf(l.Index, nil, f.broken)
	}
	o := outcomeOf(l.Index, nil, err)
	var c membershipCommand
	if err == nil {
		c = decodeCommand(e)
		if !c.step() {
			f.release() // anything else finds the view of what came before
		}
		o = f.once(l.Index, e, c)
	}
	f.held = l.Index
	if !c.step() {
		f.release()
	}
	return o
}

// release publishes what is held.
func (f *fsm) release() {
	if f.held != 0 {
		f.publish(f.held)
		f.held = 0
	}
}

// membershipCommand is what an entry asks of the membership; empty in other entries.
type membershipCommand struct {
	state.Command
	err error
}

func decodeCommand(e entry) (c membershipCommand) {
	if e.Type == entryState {
		c.Command, c.err = state.DecodeCommand(e.Body)
	}
	return c
}

// step reports whether the command is one of recovery's.
func (c *membershipCommand) step() bool { return c.Promote != nil || c.Clean != nil }

// once runs the entry unless it was applied before.
func (f *fsm) once(index uint64, e entry, c membershipCommand) outcome {
	if old, ok := f.requests.before(index, e.request); ok {
		return old
	}
	if e.Membership != 0 && e.Membership != f.membership() {
		// Not remembered: the proposer goes through the gate again.
		return outcome{Index: index, Code: codeGateAgain}
	}
	result, err := f.run(index, e, c)
	o := outcomeOf(index, result, err)
	f.requests.after(e.request, o)
	return o
}

func (f *fsm) run(index uint64, e entry, c membershipCommand) ([]byte, error) {
	switch e.Type {
	case entryMachine:
		if !f.state.Formatted() {
			return nil, sheepdog.ErrNotFormatted
		}
		return f.machine.Apply(index, e.Kind, e.Body)
	case entryState:
		return f.runState(c)
	}
	return nil, nil // entryLead
}

func (f *fsm) runState(cmd membershipCommand) ([]byte, error) {
	if errors.Is(cmd.err, state.ErrVersion) {
		f.fail(cmd.err)
	}
	if cmd.err != nil {
		return nil, cmd.err
	}
	result, err := f.state.Apply(cmd.Command)
	if err != nil {
		return nil, err
	}
	if cmd.Format != nil {
		f.machine.Reset()
	}
	if cmd.Refound != nil && result.Changed {
		f.machine.Skip()
	}
	return json.Marshal(result)
}

func (f *fsm) membership() membership {
	if v := f.state.View(); v != nil {
		return membershipOf(f.state.Generation(), v.Epoch)
	}
	return 0
}

// publish makes the state visible, after the store was wiped if the cluster
// was formatted.
func (f *fsm) publish(index uint64) {
	if f.broken != nil {
		return
	}
	if g := f.state.Generation(); g != f.generation {
		if err := f.onGeneration(g); err != nil {
			f.fail(fmt.Errorf("adopt format %d of the cluster: %w", g, err))
			return
		}
		f.generation = g
	}
	f.pub.publish(f.state.View(), f.membership(), f.state.History, index)
}

// fail stops the state machine for good: what follows in the log is not
// applied, so that nothing is served from a state that differs.
func (f *fsm) fail(err error) {
	if f.broken == nil {
		f.broken = err
		f.log.Error("this node cannot follow the cluster any more", "err", err)
		f.failed(err)
	}
}

// StoreConfiguration sees entries that change Raft's own configuration; with
// it every index after a leader's first entry passes through here.
func (f *fsm) StoreConfiguration(index uint64, _ raft.Configuration) {
	if f.broken == nil {
		f.pub.applied(index)
	}
}

// snapshotVersion is the format of a snapshot: version 1 | index 8, then the
// state, the Machine and the requests, each as length 8 and bytes.
const snapshotVersion = 1

// maxSnapshotPart bounds one part of a snapshot.
const maxSnapshotPart = 4 << 30

// Snapshot takes the state; Raft encodes and writes it while more entries are applied.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.broken != nil {
		return nil, f.broken
	}
	st, err := f.state.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("snapshot of the membership: %w", err)
	}
	requests, err := f.requests.snapshot()
	if err != nil {
		return nil, fmt.Errorf("snapshot of the requests: %w", err)
	}
	return &fsmSnapshot{index: f.pub.index(), state: st, machine: f.machine.Snapshot(), requests: requests}, nil
}

type fsmSnapshot struct {
	index           uint64
	state, requests []byte
	machine         func() ([]byte, error)
}

// Persist writes the snapshot.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	machine, err := s.machine()
	if err != nil {
		err = fmt.Errorf("snapshot of the directory: %w", err)
	} else {
		err = s.write(sink, s.state, machine, s.requests)
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (s *fsmSnapshot) write(w io.Writer, parts ...[]byte) error {
	head := binary.BigEndian.AppendUint64([]byte{snapshotVersion}, s.index)
	if _, err := w.Write(head); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := w.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p)))); err != nil {
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// Release has nothing to free.
func (s *fsmSnapshot) Release() {}

// Restore replaces everything by a snapshot.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	index, parts, err := readSnapshot(r)
	if err != nil {
		return err
	}
	st, err := state.Restore(parts[0])
	if err != nil {
		return fmt.Errorf("restore membership: %w", err)
	}
	if err := f.machine.Restore(parts[1]); err != nil {
		return fmt.Errorf("restore directory: %w", err)
	}
	if err := f.requests.restore(parts[2]); err != nil {
		return err
	}
	f.state = st
	f.publish(index)
	return nil
}

func readSnapshot(r io.Reader) (index uint64, parts [3][]byte, err error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, parts, fmt.Errorf("read snapshot: %w", err)
	}
	if head[0] != snapshotVersion {
		return 0, parts, fmt.Errorf("snapshot of format %d is not known to this version; upgrade the node", head[0])
	}
	for i := range parts {
		var size [8]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return 0, parts, fmt.Errorf("read snapshot: %w", err)
		}
		n := binary.BigEndian.Uint64(size[:])
		if n > maxSnapshotPart {
			return 0, parts, fmt.Errorf("snapshot part of %d bytes is too large", n)
		}
		// Grown as bytes arrive, so that a lie about the size costs nothing.
		if parts[i], err = io.ReadAll(io.LimitReader(r, int64(n))); err != nil {
			return 0, parts, fmt.Errorf("read snapshot: %w", err)
		}
		if uint64(len(parts[i])) != n {
			return 0, parts, fmt.Errorf("read snapshot: %w", io.ErrUnexpectedEOF)
		}
	}
	return binary.BigEndian.Uint64(head[1:]), parts, nil
}
