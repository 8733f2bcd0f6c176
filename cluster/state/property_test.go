package state

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sheepdog"
	"sheepdog/cluster/ring"
)

// The property test drives two instances with random commands and checks after
// each that the rules hold, comparing the view before with the view after.
func TestRandomCommandsKeepTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver()
		for range rapid.IntRange(1, 9).Draw(t, "steps") {
			d.step(t)
		}
		d.checkSnapshot(t)
		d.checkOldViews(t)
	})
}

// driver holds two instances of the state and what it knows of the past.
type driver struct {
	a, b   *State
	clock  time.Time
	nextID uint64 // of incarnations
	seen   []seenView
}

// seenView is a view with a deep copy of what it said when it was published.
type seenView struct {
	view *sheepdog.View
	copy sheepdog.View
}

func newDriver() *driver {
	return &driver{a: New(), b: New(), clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// checkPublished: what promotions change in the published table, without making it
// anew, is what a table made anew has.
func (d *driver) checkPublished(t *rapid.T) {
	for _, tab := range d.a.tables {
		for p, pl := range tab.public {
			if pl != &tab.rows[p].Placement {
				t.Fatalf("policy %v: the view has another placement of partition %d than the table", tab.policy, p)
			}
		}
	}
}

// checkUnconcerned: rows that a change passes over would have stayed as they are.
func (d *driver) checkUnconcerned(t *rapid.T, cmd Command) {
	if cmd.Change == nil || !d.a.Formatted() {
		return
	}
	m := newMove(d.a.members, newMembers(d.a.members, d.a.weights, cmd.Change), cmd.Change, d.a.revision+1)
	for _, tab := range d.a.tables {
		done := make(map[*row]bool)
		for p, r := range tab.rows {
			if !done[r] && m.unconcerned(r, r.Target) && m.next(r, r.Target) != r {
				t.Fatalf("partition %d is passed over, but would become %+v of %+v", p, m.next(r, r.Target), r)
			}
			done[r] = true
		}
	}
}

// checkRing: targets that are made of those before are what the ring wants.
func checkRing(t *rapid.T, v *sheepdog.View) {
	for policy, table := range v.Tables {
		for p, want := range ring.Place(v.Members, policy.Width()) {
			if !slices.Equal(table[p].Target, want) {
				t.Fatalf("table %s, partition %d: target %v, the ring wants %v", policy, p, table[p].Target, want)
			}
		}
	}
}

func (d *driver) step(t *rapid.T) {
	d.clock = d.clock.Add(time.Second)
	cmd := d.command(t)
	before := d.a.View()
	d.checkUnconcerned(t, cmd)
	res, err := d.a.Apply(cmd)
	again, errAgain := d.b.Apply(recode(t, cmd))
	if (err == nil) != (errAgain == nil) || !reflect.DeepEqual(res, again) {
		t.Fatalf("two instances differ: %+v %v, %+v %v", res, err, again, errAgain)
	}
	after := d.a.View()
	if (before != after) != res.Changed {
		t.Fatalf("Changed is %v, but the view says %v", res.Changed, before != after)
	}
	if rapid.IntRange(0, 5).Draw(t, "restart") == 0 {
		d.checkPublished(t)
		d.checkSnapshot(t)
	}
	if !res.Changed {
		return
	}
	d.remember(after)
	checkView(t, after)
	if cmd.Change != nil {
		checkRing(t, after)
	}
	if before != nil && cmd.Format == nil {
		checkStepBetween(t, cmd, before, after)
	}
}

// recode sends the command through its encoding, as the Raft log does.
func recode(t *rapid.T, cmd Command) Command {
	b, err := cmd.Encode()
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	out, err := DecodeCommand(b)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	return out
}

// checkSnapshot restores b from its snapshot: it must be the same state, and
// goes on as the restored one.
func (d *driver) checkSnapshot(t *rapid.T) {
	one, err := d.a.Snapshot()
	if err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	two, err := d.b.Snapshot()
	if err != nil || !bytes.Equal(one, two) {
		t.Fatalf("snapshots of two instances differ (%d and %d bytes, %v)", len(one), len(two), err)
	}
	restored, err := Restore(two)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	if three, err := restored.Snapshot(); err != nil || !bytes.Equal(one, three) {
		t.Fatalf("a restored state has another snapshot (%v)", err)
	}
	if v, w := d.a.View(), restored.View(); v != nil && !sameView(v, w) {
		t.Fatalf("a restored state has another view: %+v, want %+v", w.Members, v.Members)
	}
	if !reflect.DeepEqual(d.a.History(), restored.History()) {
		t.Fatalf("a restored state has another history: %v, want %v", restored.History(), d.a.History())
	}
	d.b = restored
}

func sameView(v, w *sheepdog.View) bool {
	if v.Cluster != w.Cluster || v.Epoch != w.Epoch || v.Revision != w.Revision || v.Config != w.Config ||
		!slices.Equal(v.Members, w.Members) || len(v.Tables) != len(w.Tables) {
		return false
	}
	for policy, t := range v.Tables {
		if !slices.EqualFunc(t, w.Tables[policy], samePlacement) {
			return false
		}
	}
	return true
}

func samePlacement(p, q *sheepdog.Placement) bool {
	return p == q || p.Since == q.Since && p.State == q.State && slices.Equal(p.Acting, q.Acting) && slices.Equal(p.Target, q.Target)
}

// remember keeps a view and a copy of it that shares nothing.
func (d *driver) remember(v *sheepdog.View) {
	c := *v
	c.Members = slices.Clone(v.Members)
	c.Tables = make(map[sheepdog.Policy]sheepdog.Table)
	for policy, t := range v.Tables {
		copied := make(map[*sheepdog.Placement]*sheepdog.Placement)
		out := make(sheepdog.Table, len(t))
		for p, row := range t {
			if copied[row] == nil {
				q := *row
				q.Acting, q.Target = slices.Clone(row.Acting), slices.Clone(row.Target)
				copied[row] = &q
			}
			out[p] = copied[row]
		}
		c.Tables[policy] = out
	}
	d.seen = append(d.seen, seenView{view: v, copy: c})
}

func (d *driver) checkOldViews(t *rapid.T) {
	for _, s := range d.seen {
		if !sameView(s.view, &s.copy) {
			t.Fatalf("the view of revision %d has changed since it was published", s.copy.Revision)
		}
	}
}

// checkView checks what must hold in every view.
func checkView(t *rapid.T, v *sheepdog.View) {
	zones := make(map[sheepdog.NodeID]sheepdog.Zone)
	for _, m := range v.Members {
		if m.VNodes > 0 {
			zones[m.ID] = m.Zone
		}
	}
	for policy, table := range v.Tables {
		if len(table) != sheepdog.Partitions {
			t.Fatalf("table %s has %d partitions", policy, len(table))
		}
		done := make(map[*sheepdog.Placement]bool)
		for p, row := range table {
			if done[row] {
				continue
			}
			done[row] = true
			if len(row.Acting) == 0 || row.Since == 0 || row.Since > v.Revision {
				t.Fatalf("table %s, partition %d: %+v", policy, p, row)
			}
			if want := min(policy.Width(), v.StorageZones()); len(row.Target) != want {
				t.Fatalf("table %s, partition %d: %d targets, want %d", policy, p, len(row.Target), want)
			}
			used := make(map[sheepdog.Zone]bool)
			for _, id := range row.Target {
				zone, ok := zones[id]
				if !ok || used[zone] {
					t.Fatalf("table %s, partition %d: target %s in zone %d is not in a zone of its own", policy, p, id, zone)
				}
				used[zone] = true
			}
			if !slices.Equal(row.Acting, inRingOrder(row.Acting, row.Target)) {
				t.Fatalf("table %s, partition %d: acting %v is not in the order of target %v", policy, p, row.Acting, row.Target)
			}
		}
	}
}

// checkStepBetween checks what one command may do to a view.
func checkStepBetween(t *rapid.T, cmd Command, before, after *sheepdog.View) {
	if after.Revision != before.Revision+1 {
		t.Fatalf("revision goes from %d to %d", before.Revision, after.Revision)
	}
	wantEpoch := before.Epoch
	if !slices.Equal(before.Members, after.Members) {
		wantEpoch++
	}
	if after.Epoch != wantEpoch {
		t.Fatalf("epoch goes from %d to %d, want %d", before.Epoch, after.Epoch, wantEpoch)
	}
	for policy, old := range before.Tables {
		now := after.Tables[policy]
		type pair struct{ old, now *sheepdog.Placement }
		done := make(map[pair]bool)
		for p := range old {
			if k := (pair{old[p], now[p]}); !done[k] {
				done[k] = true
				checkPlacementStep(t, cmd, before, after, k.old, k.now)
			}
		}
	}
}

func checkPlacementStep(t *rapid.T, cmd Command, before, after *sheepdog.View, old, now *sheepdog.Placement) {
	if err := (stepRules{cmd: cmd, before: before, after: after}).check(old, now); err != "" {
		t.Fatalf("%s: %+v became %+v by %+v", err, *old, *now, cmd)
	}
}

// stepRules are the rules of PROTOCOL 2, 3 and 12 said another way than in the
// code: by what may not happen.
type stepRules struct {
	cmd           Command
	before, after *sheepdog.View
}

func (r stepRules) check(old, now *sheepdog.Placement) string {
	changed := old.State != now.State || !slices.Equal(old.Acting, now.Acting) || !slices.Equal(old.Target, now.Target) || r.replacedAny(now)
	switch {
	case changed && now.Since != r.after.Revision:
		return "changed, but Since is older"
	case !changed && now.Since != old.Since:
		return "not changed, but Since is newer"
	}
	for _, id := range now.Acting {
		if !old.IsActing(id) && !r.promotes(id, old) {
			return "a node acts that did not and was not promoted"
		}
	}
	if r.cmd.Change == nil {
		return ""
	}
	if !slices.ContainsFunc(now.Acting, r.knownGood(old, now)) && len(now.Acting) < len(old.Acting) {
		return "a node left although nobody who stays is known to be alive"
	}
	if now.State == sheepdog.Clean {
		for _, id := range now.Acting {
			if _, ok := r.after.Member(id); ok && r.replaced(id) {
				return "a restarted node acts in a clean partition"
			}
		}
	}
	if old.State == sheepdog.Unclean && now.State == sheepdog.Clean {
		return "a change cleaned a partition"
	}
	return ""
}

// knownGood says whether a node that stays justifies that others leave.
func (r stepRules) knownGood(old, now *sheepdog.Placement) func(sheepdog.NodeID) bool {
	return func(id sheepdog.NodeID) bool {
		m, ok := r.after.Member(id)
		if !ok {
			return false
		}
		return r.replaced(id) && now.State == sheepdog.Unclean ||
			slices.Contains(r.cmd.Change.Confirmed, MemberRef{id, m.Incarnation}) && !r.replaced(id) ||
			old.State == sheepdog.Unclean
	}
}

func (r stepRules) replaced(id sheepdog.NodeID) bool {
	m, was := r.before.Member(id)
	n, is := r.after.Member(id)
	return was != is || m.Incarnation != n.Incarnation
}

func (r stepRules) replacedAny(p *sheepdog.Placement) bool {
	return slices.ContainsFunc(p.Acting, r.replaced) || slices.ContainsFunc(p.Target, r.replaced)
}

func (r stepRules) promotes(id sheepdog.NodeID, old *sheepdog.Placement) bool {
	return r.cmd.Promote != nil && r.cmd.Promote.Node == id && slices.Contains(old.Target, id)
}
