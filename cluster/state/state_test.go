package state

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"sheepdog"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// nodes makes n members in zones of their own under the incarnation.
func nodes(n int, incarnation sheepdog.Incarnation) []sheepdog.Member {
	out := make([]sheepdog.Member, n)
	for i := range out {
		out[i] = sheepdog.Member{
			ID:          sheepdog.NodeID(0x9e3779b97f4a7c15 * uint64(i+1)),
			Incarnation: incarnation,
			Addr:        "192.0.2.1:7000",
			Zone:        sheepdog.Zone(i),
			VNodes:      sheepdog.DefaultVNodes,
		}
	}
	return out
}

func refs(members []sheepdog.Member) []MemberRef {
	var out []MemberRef
	for _, m := range members {
		out = append(out, MemberRef{m.ID, m.Incarnation})
	}
	return out
}

func formatOf(members []sheepdog.Member, copies uint8) Command {
	return Command{Format: &Format{
		Cluster: sheepdog.ClusterID{1},
		Config:  sheepdog.Config{Policy: sheepdog.Policy{Copies: copies}, BlockSizeShift: sheepdog.DefaultObjectShift},
		Members: members,
		Time:    testTime,
	}}
}

func mustApply(t testing.TB, s *State, cmd Command) Result {
	t.Helper()
	res, err := s.Apply(cmd)
	if err != nil {
		t.Fatalf("apply %s: %v", cmd.kind(), err)
	}
	return res
}

func TestUnformatted(t *testing.T) {
	s := New()
	if s.View() != nil || s.Formatted() || len(s.History()) > 0 {
		t.Error("a new state has a view, a format or a history")
	}
	for _, cmd := range []Command{
		{Change: &Change{Time: testTime}},
		{Promote: &Promote{Policy: sheepdog.Policy{Copies: 3}}},
		{Table: &AddTable{Policy: sheepdog.Policy{Copies: 3}}},
		{Configure: &Configure{}},
	} {
		if _, err := s.Apply(cmd); !errors.Is(err, sheepdog.ErrNotFormatted) {
			t.Errorf("%s: %v, want ErrNotFormatted", cmd.kind(), err)
		}
	}
}

func TestRefusedCommandsChangeNothing(t *testing.T) {
	s := New()
	mustApply(t, s, formatOf(nodes(3, 1), 3))
	before, view := snapshotOf(t, s), s.View()
	three, long := sheepdog.Policy{Copies: 3}, nodes(1, 1)
	long[0].Addr = string(make([]byte, MaxAddr+1))
	cases := map[string]struct {
		cmd  Command
		want error
	}{
		"empty":              {Command{}, sheepdog.ErrInvalid},
		"two kinds":          {Command{Change: &Change{}, Table: &AddTable{Policy: three}}, sheepdog.ErrInvalid},
		"no cluster id":      {Command{Format: &Format{Config: s.config, Members: nodes(1, 1)}}, sheepdog.ErrInvalid},
		"no config":          {Command{Format: &Format{Cluster: s.cluster, Members: nodes(1, 1)}}, sheepdog.ErrInvalid},
		"no members":         {formatOf(nil, 3), sheepdog.ErrInvalid},
		"too many members":   {formatOf(nodes(MaxMembers+1, 1), 3), sheepdog.ErrInvalid},
		"no incarnation":     {formatOf(nodes(2, 0), 3), sheepdog.ErrInvalid},
		"no copies":          {formatOf(nodes(2, 1), 0), sheepdog.ErrInvalid},
		"too many copies":    {formatOf(nodes(2, 1), 32), sheepdog.ErrInvalid},
		"long address":       {Command{Change: &Change{Join: long}}, sheepdog.ErrInvalid},
		"everybody leaves":   {Command{Change: &Change{Remove: refs(nodes(3, 1))}}, sheepdog.ErrInvalid},
		"long reason":        {Command{Change: &Change{Reason: string(make([]byte, MaxReason+1))}}, sheepdog.ErrInvalid},
		"strange time":       {Command{Change: &Change{Time: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}}, sheepdog.ErrInvalid},
		"unknown table":      {Command{Promote: &Promote{Policy: sheepdog.Policy{Copies: 9}}}, sheepdog.ErrConflict},
		"unknown node":       {Command{Promote: &Promote{Policy: three, Node: 9, Incarnation: 1}}, sheepdog.ErrConflict},
		"former incarnation": {Command{Clean: &Clean{Policy: three, Node: nodes(1, 1)[0].ID, Incarnation: 9}}, sheepdog.ErrConflict},
		"too many items":     {Command{Clean: &Clean{Policy: three, Items: make([]PartitionSince, sheepdog.Partitions+1)}}, sheepdog.ErrInvalid},
		"min copies":         {Command{Configure: &Configure{MinCopies: new(uint8(99))}}, sheepdog.ErrInvalid},
	}
	for name, c := range cases {
		res, err := s.Apply(c.cmd)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
		if res.Changed || s.View() != view || !bytes.Equal(snapshotOf(t, s), before) {
			t.Errorf("%s: the state changed", name)
		}
	}
}

func TestTableLimit(t *testing.T) {
	s := New()
	mustApply(t, s, formatOf(nodes(1, 1), 3))
	for i := 1; i < MaxTables; i++ {
		mustApply(t, s, Command{Table: &AddTable{Policy: sheepdog.Policy{Copies: uint8(1 + i/15), Parity: uint8(1 + i%15)}}})
	}
	policy := sheepdog.Policy{Copies: 30}
	if _, err := s.Apply(Command{Table: &AddTable{Policy: policy}}); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("table %d: %v, want ErrInvalid", MaxTables+1, err)
	}
	if res, err := s.Apply(Command{Configure: &Configure{Policy: &policy}}); err == nil || res.Changed || s.config.Policy == policy {
		t.Errorf("a default policy without table was taken: %v", err)
	}
}

func TestFormatAgain(t *testing.T) {
	s := New()
	mustApply(t, s, formatOf(nodes(3, 1), 3))
	first := s.View()
	again := formatOf(nodes(3, 1), 2)
	again.Format.Cluster = sheepdog.ClusterID{9}
	again.Format.Time = testTime.Add(time.Hour)
	res := mustApply(t, s, again)
	v := s.View()
	if res.Generation != 2 || s.Generation() != 2 || v.Epoch != 1 || v.Revision != 2 {
		t.Errorf("generation %d, epoch %d, revision %d; want 2, 1, 2", res.Generation, v.Epoch, v.Revision)
	}
	if v.Cluster != first.Cluster {
		t.Errorf("cluster id became %s", v.Cluster)
	}
	if !v.Config.Created.Equal(testTime.Add(time.Hour)) {
		t.Errorf("created %v", v.Config.Created)
	}
	if len(v.Tables) != 1 || v.Tables[sheepdog.Policy{Copies: 2}] == nil {
		t.Errorf("tables %v", len(v.Tables))
	}
}

func TestViewIsCachedAndSharesRows(t *testing.T) {
	s := New()
	mustApply(t, s, formatOf(nodes(3, 1), 3))
	v := s.View()
	if s.View() != v {
		t.Error("the same state has two views")
	}
	mustApply(t, s, Command{Table: &AddTable{Policy: sheepdog.Policy{Copies: 2}}})
	w := s.View()
	if w == v || len(v.Tables) != 1 || len(w.Tables) != 2 {
		t.Fatalf("tables %d and %d, want 1 and 2", len(v.Tables), len(w.Tables))
	}
	three := sheepdog.Policy{Copies: 3}
	if &v.Tables[three][0] != &w.Tables[three][0] {
		t.Error("a table that did not change was copied")
	}
	distinct := make(map[*sheepdog.Placement]bool)
	for _, p := range w.Tables[three] {
		distinct[p] = true
	}
	if len(distinct) != 6 {
		t.Errorf("%d rows for three nodes, want one per order: 6", len(distinct))
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s := New()
	mustApply(t, s, formatOf(nodes(2, 1), 1))
	for range MaxHistory + 9 {
		s.newEpoch(testTime) // as Change does; a thousand of those take long
	}
	mustApply(t, s, Command{Change: &Change{Join: []sheepdog.Member{{ID: 42, Incarnation: 1}}, Time: testTime}})
	h := s.History()
	if len(h) != MaxHistory || h[len(h)-1].Epoch != s.View().Epoch || h[0].Epoch != s.View().Epoch-MaxHistory+1 {
		t.Fatalf("%d records, %d to %d, epoch %d", len(h), h[0].Epoch, h[len(h)-1].Epoch, s.View().Epoch)
	}
	b := snapshotOf(t, s)
	restored, err := Restore(b)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(h, restored.History(), func(a, b EpochRecord) bool {
		return a.Epoch == b.Epoch && a.Time.Equal(b.Time) && slices.Equal(a.Members, b.Members)
	}) {
		t.Error("history differs after restore")
	}
}

func TestTimesAreNormalised(t *testing.T) {
	s := New()
	cmd := formatOf(nodes(1, 1), 1)
	cmd.Format.Time = time.Now().In(time.FixedZone("X", 3600))
	mustApply(t, s, cmd)
	if at := s.History()[0].Time; at.Location() != time.UTC || !at.Equal(cmd.Format.Time) {
		t.Errorf("epoch 1 at %v, want %v in UTC", at, cmd.Format.Time)
	}
}

// A Change rewrites 65536 rows; it runs on every node in the path of failover.
func TestChangeIsFast(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("measures time")
	}
	s := New()
	three := nodes(3, 1)
	mustApply(t, s, formatOf(three, 3))
	best := time.Hour
	for i := range 5 { // caches may be cold: the best counts
		three[2].Incarnation = sheepdog.Incarnation(i + 2)
		cmd := Command{Change: &Change{Join: three[2:], Confirmed: refs(three[:2]), Time: testTime}}
		start := cpuTime(t)
		mustApply(t, s, cmd)
		s.View()
		best = min(best, cpuTime(t)-start)
		promoteAll(t, s, three[2])
	}
	if best > 100*time.Millisecond {
		t.Errorf("a change took %v of CPU, want less than 100 ms", best)
	}
}

// cpuTime is what this process has used so far: unlike the clock it does not
// count the time in which others had the processor.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatalf("getrusage: %v", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func promoteAll(t testing.TB, s *State, m sheepdog.Member) {
	policy := s.config.Policy
	cmd := &Promote{Policy: policy, Node: m.ID, Incarnation: m.Incarnation}
	for p, row := range s.View().Tables[policy] {
		if !row.IsActing(m.ID) {
			cmd.Items = append(cmd.Items, PartitionSince{sheepdog.Partition(p), row.Since})
		}
	}
	if res := mustApply(t, s, Command{Promote: cmd}); len(res.Refused) > 0 {
		t.Fatalf("%d promotions refused", len(res.Refused))
	}
}

func BenchmarkChange(b *testing.B) {
	for _, n := range []int{4, 16, 64} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			s := New()
			members := nodes(n, 1)
			mustApply(b, s, formatOf(members, 3))
			i := sheepdog.Incarnation(1)
			for b.Loop() {
				i++
				last := members[n-1]
				mustApply(b, s, Command{Change: &Change{Remove: refs(members[n-1:]), Confirmed: refs(members[:n-1]), Time: testTime}})
				last.Incarnation = i
				members[n-1] = last
				mustApply(b, s, Command{Change: &Change{Join: members[n-1:], Confirmed: refs(members[:n-1]), Time: testTime}})
				s.View()
			}
		})
	}
}

// A command that has nothing to do with the members.
func BenchmarkConfigure(b *testing.B) {
	for _, n := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			s := New()
			mustApply(b, s, formatOf(nodes(n, 1), 3))
			for on := false; b.Loop(); on = !on {
				mustApply(b, s, Command{Configure: &Configure{RecoveryDisabled: &on}})
				s.View()
			}
		})
	}
}

// reborn lists the members under another incarnation, each with the life of its
// store that is given.
func reborn(members []sheepdog.Member, incarnation sheepdog.Incarnation, lives ...sheepdog.StoreLife) []sheepdog.Member {
	out := slices.Clone(members)
	for i := range out {
		out[i].Incarnation, out[i].StoreLife = incarnation, lives[i]
	}
	return out
}

// A partition whose acting replicas have all forgotten what was not flushed says
// so when it serves again; one that remembers is enough.
func TestLostMemoryIsRecorded(t *testing.T) {
	all := reborn(nodes(3, 1), 1, 11, 12, 13)
	for _, c := range []struct {
		name  string
		lives []sheepdog.StoreLife
		lost  bool
	}{
		{"processes died", []sheepdog.StoreLife{11, 12, 13}, false},
		{"one kept its power", []sheepdog.StoreLife{21, 12, 23}, false},
		{"the power failed", []sheepdog.StoreLife{21, 22, 23}, true},
		{"nothing is known", []sheepdog.StoreLife{0, 0, 0}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := New()
			mustApply(t, s, formatOf(all, 3))
			mustApply(t, s, Command{Change: &Change{Join: reborn(all, 2, c.lives...), Time: time.Unix(1, 0)}})
			v := s.View()
			pl, _ := v.Placement(sheepdog.Policy{Copies: 3}, 5)
			if pl.State != sheepdog.Unclean || pl.Lost != 0 {
				t.Fatalf("after the restart: %+v", pl)
			}
			clean := &Clean{Policy: sheepdog.Policy{Copies: 3}, Node: pl.Acting[0], Incarnation: 2, Items: []PartitionSince{{Partition: 5, Since: pl.Since}}}
			mustApply(t, s, Command{Clean: clean})
			restored, err := Restore(snapshotOf(t, s))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []*State{s, restored} {
				pl, _ := s.View().Placement(sheepdog.Policy{Copies: 3}, 5)
				if pl.State != sheepdog.Clean || (pl.Lost == s.View().Revision) != c.lost || (pl.Lost == 0) == c.lost {
					t.Errorf("lost in revision %d of %d, want lost: %v (%+v)", pl.Lost, s.View().Revision, c.lost, pl)
				}
			}
		})
	}
}

// A replica that kept its memory but was not acting any more when the others
// lost theirs, and was filled from them, remembers nothing of worth.
func TestMemoryOfAFormerReplicaDoesNotCount(t *testing.T) {
	three, time1 := sheepdog.Policy{Copies: 3}, time.Unix(1, 0)
	all := reborn(nodes(3, 1), 1, 11, 12, 13)
	s := New()
	mustApply(t, s, formatOf(all, 3))
	mustApply(t, s, Command{Change: &Change{Remove: refs(all[:1]), Confirmed: refs(all[1:]), Time: time1}})
	mustApply(t, s, Command{Change: &Change{Join: reborn(all, 2, 11, 22, 23), Time: time1}})
	row := func() *sheepdog.Placement { pl, _ := s.View().Placement(three, 5); return pl }
	if row().IsActing(all[0].ID) {
		t.Fatalf("the removed node acts: %+v", row())
	}
	mustApply(t, s, Command{Clean: &Clean{Policy: three, Node: row().Acting[0], Incarnation: 2, Items: []PartitionSince{{Partition: 5, Since: row().Since}}}})
	lost := row().Lost
	mustApply(t, s, Command{Promote: &Promote{Policy: three, Node: all[0].ID, Incarnation: 2, Items: []PartitionSince{{Partition: 5, Since: row().Since}}}})
	if !row().IsActing(all[0].ID) || lost == 0 || row().Lost != lost {
		t.Errorf("the loss of revision %d is not kept: %+v", lost, row())
	}
}
