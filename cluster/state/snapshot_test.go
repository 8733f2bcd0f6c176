package state

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"sheepdog"
)

func snapshotOf(t testing.TB, s *State) []byte {
	t.Helper()
	b, err := s.Snapshot()
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	return b
}

// seal gives tampered bytes a right checksum.
func seal(b []byte) []byte {
	body := b[:len(b)-4]
	return binary.LittleEndian.AppendUint32(append([]byte(nil), body...), checksum(body))
}

func TestSnapshotOfNothing(t *testing.T) {
	s, err := Restore(snapshotOf(t, New()))
	if err != nil || s.Formatted() || s.View() != nil {
		t.Fatalf("restored %v, %v", s, err)
	}
	mustApply(t, s, formatOf(nodes(1, 1), 1))
}

func TestSnapshotIsCompact(t *testing.T) {
	for n, limit := range map[int]int{3: 80 << 10, 64: 1200 << 10} {
		s := New()
		mustApply(t, s, formatOf(nodes(n, 1), 3))
		if b := snapshotOf(t, s); len(b) > limit {
			t.Errorf("%d nodes: %d bytes, want at most %d", n, len(b), limit)
		}
	}
}

func TestRestoreRefusesDamage(t *testing.T) {
	s := New()
	mustApply(t, s, formatOf(nodes(3, 1), 3))
	good := snapshotOf(t, s)
	flipped := func(i int) []byte {
		b := append([]byte(nil), good...)
		b[i] ^= 1
		return b
	}
	cases := map[string]struct {
		b    []byte
		want error
	}{
		"empty":         {nil, sheepdog.ErrInvalid},
		"magic":         {seal(flipped(0)), sheepdog.ErrInvalid},
		"version":       {seal(flipped(4)), ErrVersion},
		"a bit":         {flipped(len(good) / 2), sheepdog.ErrChecksum},
		"cut":           {good[:len(good)-9], sheepdog.ErrChecksum},
		"cut and whole": {seal(good[:len(good)-9]), sheepdog.ErrInvalid},
		"tail":          {seal(append(append([]byte(nil), good...), 0)), sheepdog.ErrInvalid},
		"header length": {seal(append(append([]byte(nil), good[:5]...), 0xff, 0xff, 0x7f, 0, 0, 0, 0)), sheepdog.ErrInvalid},
	}
	for name, c := range cases {
		if _, err := Restore(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// Contents that no command makes, under a right checksum.
func TestRestoreRefusesNonsense(t *testing.T) {
	cases := map[string]func(*State){
		"nobody acts":         func(s *State) { s.tables[0].rows[7] = &row{Placement: sheepdog.Placement{Since: 1}} },
		"of the future":       func(s *State) { s.tables[0].rows[7] = rowOf(s, 2, sheepdog.Clean) },
		"never":               func(s *State) { s.tables[0].rows[7] = rowOf(s, 0, sheepdog.Clean) },
		"unknown state":       func(s *State) { s.tables[0].rows[7] = rowOf(s, 1, 2) },
		"no default table":    func(s *State) { s.config.Policy.Copies = 9 },
		"table twice":         func(s *State) { s.tables = append(s.tables, s.tables[0]) },
		"no members":          func(s *State) { s.members = nil },
		"members in disorder": func(s *State) { s.members = []sheepdog.Member{s.members[1], s.members[0]} },
		"history with a gap":  func(s *State) { s.history[0].Epoch = 5 },
		"no history":          func(s *State) { s.history = nil },
		"no cluster":          func(s *State) { s.cluster = sheepdog.ClusterID{} },
		"bad config":          func(s *State) { s.config.BlockSizeShift = 1 },
		"restarted but clean": func(s *State) {
			r := rowOf(s, 1, sheepdog.Clean)
			r.Restarted = r.Acting
			s.tables[0].rows[7] = r
		},
		"restarted elsewhere": func(s *State) {
			r := rowOf(s, 1, sheepdog.Unclean)
			r.Restarted = []sheepdog.NodeID{77}
			s.tables[0].rows[7] = r
		},
		"acts twice": func(s *State) {
			r := rowOf(s, 1, sheepdog.Clean)
			r.Acting = append(r.Acting, r.Acting...)
			s.tables[0].rows[7] = r
		},
	}
	for name, spoil := range cases {
		s := New()
		mustApply(t, s, formatOf(nodes(3, 1), 3))
		spoil(s)
		if _, err := Restore(snapshotOf(t, s)); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func rowOf(s *State, since sheepdog.Revision, state sheepdog.PartitionState) *row {
	id := s.members[0].ID
	return &row{Placement: sheepdog.Placement{Acting: []sheepdog.NodeID{id}, Target: []sheepdog.NodeID{id}, Since: since, State: state}, Lives: make([]sheepdog.StoreLife, 1)}
}

func TestDecodeCommandRefuses(t *testing.T) {
	cases := map[string]struct {
		text string
		want error
	}{
		"nothing":       {"", sheepdog.ErrInvalid},
		"no version":    {`{"change":{"time":"2026-01-01T00:00:00Z"}}`, ErrVersion},
		"newer":         {`{"v":2,"merge":{}}`, ErrVersion},
		"unknown field": {`{"v":1,"change":{"time":"2026-01-01T00:00:00Z","force":true}}`, sheepdog.ErrInvalid},
		"no kind":       {`{"v":1}`, sheepdog.ErrInvalid},
		"two kinds":     {`{"v":1,"table":{"policy":"3"},"configure":{}}`, sheepdog.ErrInvalid},
		"tail":          {`{"v":1,"configure":{}} {}`, sheepdog.ErrInvalid},
		"bad policy":    {`{"v":1,"table":{"policy":"99"}}`, sheepdog.ErrInvalid},
		"huge":          {strings.Repeat(" ", MaxCommand+1), sheepdog.ErrInvalid},
	}
	for name, c := range cases {
		if _, err := DecodeCommand([]byte(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := (Command{}).Encode(); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("an empty command was encoded: %v", err)
	}
}
