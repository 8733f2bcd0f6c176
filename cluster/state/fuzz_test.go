package state

import (
	"bytes"
	"testing"

	"sheepdog"
)

// Whatever Restore accepts is a state that works and snapshots to the same.
func FuzzRestore(f *testing.F) {
	f.Add(snapshotOf(f, New()))
	s := New()
	mustApply(f, s, formatOf(nodes(3, 1), 3))
	f.Add(snapshotOf(f, s))
	mustApply(f, s, Command{Change: &Change{Join: nodes(4, 2)[:2], Time: testTime}})
	f.Add(snapshotOf(f, s))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 {
			b = seal(b) // else nothing gets past the checksum
		}
		s, err := Restore(b)
		if err != nil {
			return
		}
		once := snapshotOf(t, s)
		again, err := Restore(once)
		if err != nil {
			t.Fatalf("restore of a restored state's snapshot: %v", err)
		}
		if !bytes.Equal(once, snapshotOf(t, again)) {
			t.Fatal("snapshot differs after restore")
		}
		if !s.Formatted() {
			return
		}
		s.View()
		m := s.members[0]
		m.Incarnation++
		if m.Incarnation != 0 {
			mustApply(t, s, Command{Change: &Change{Join: []sheepdog.Member{m}, Time: testTime}})
		}
	})
}

// Whatever DecodeCommand accepts can be applied without panic and encodes to
// what decodes the same.
func FuzzDecodeCommand(f *testing.F) {
	three := sheepdog.Policy{Copies: 3}
	off := true
	for _, cmd := range []Command{
		formatOf(nodes(2, 1), 3),
		{Change: &Change{Join: nodes(3, 2), Remove: refs(nodes(1, 1)), Weights: []Weight{{ID: 5, VNodes: 6}}, Confirmed: refs(nodes(3, 1)), Time: testTime, Reason: "died"}},
		{Promote: &Promote{Policy: three, Node: nodes(1, 1)[0].ID, Incarnation: 1, Items: []PartitionSince{{1, 1}, {65535, 1}}}},
		{Clean: &Clean{Policy: three, Node: nodes(1, 1)[0].ID, Incarnation: 1, Items: []PartitionSince{{1, 1}}}},
		{Table: &AddTable{Policy: sheepdog.Policy{Copies: 4, Parity: 2}}},
		{Configure: &Configure{Policy: &three, RecoveryDisabled: &off}},
	} {
		b, err := cmd.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := DecodeCommand(b)
		if err != nil {
			return
		}
		once, err := cmd.Encode()
		if err != nil {
			t.Fatalf("encode of a decoded command: %v", err)
		}
		back, err := DecodeCommand(once)
		if err != nil {
			t.Fatalf("decode of an encoded command: %v", err)
		}
		if twice, _ := back.Encode(); !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s", once, twice)
		}
		s := New()
		mustApply(t, s, formatOf(nodes(3, 1), 3))
		if _, err := s.Apply(cmd); err == nil {
			s.View()
		}
	})
}
