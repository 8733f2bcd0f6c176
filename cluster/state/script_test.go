package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"sheepdog"
)

// TestScripts runs the text scripts in testdata. A node is written as its id
// and incarnation: 2.1 is the first life of node 2. Tables are shown as counts
// of equal partitions; a node in parentheses acts but is no member.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		r := &script{state: New()}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return r.run(t, d)
		})
	})
}

// script is one run of commands on one state.
type script struct {
	state *State
	clock int // seconds
}

func (r *script) run(t *testing.T, d *datadriven.TestData) string {
	r.clock++
	now := time.Date(2026, 1, 1, 0, 0, r.clock, 0, time.UTC)
	switch d.Cmd {
	case "format":
		return r.apply(Command{Format: parseFormat(t, d, now)})
	case "change":
		return r.apply(Command{Change: parseChange(t, d, now)})
	case "promote":
		node, items := r.parseStep(t, d)
		return r.apply(Command{Promote: &Promote{Policy: policyArg(t, d), Node: node.ID, Incarnation: node.Incarnation, Items: items}})
	case "clean":
		node, items := r.parseStep(t, d)
		return r.apply(Command{Clean: &Clean{Policy: policyArg(t, d), Node: node.ID, Incarnation: node.Incarnation, Items: items}})
	case "table":
		return r.apply(Command{Table: &AddTable{Policy: policyArg(t, d)}})
	case "configure":
		return r.apply(Command{Configure: parseConfigure(t, d)})
	case "refound":
		return r.apply(Command{Refound: &Refound{Former: r.state.View().Cluster, Cluster: sheepdog.ClusterID{2}, Time: now}})
	case "force":
		return r.apply(Command{Force: &Force{Policy: policyArg(t, d), Holders: parseHolders(t, d)}})
	case "restart": // as a process that restores a snapshot
		b, err := r.state.Snapshot()
		if err == nil {
			r.state, err = Restore(b)
		}
		if err != nil {
			return err.Error() + "\n"
		}
		return describe(r.state)
	case "history":
		return describeHistory(r.state)
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

func (r *script) apply(cmd Command) string {
	b, err := cmd.Encode()
	if err == nil {
		cmd, err = DecodeCommand(b)
	}
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	res, err := r.state.Apply(cmd)
	var out strings.Builder
	switch {
	case err != nil:
		return "error: " + err.Error() + "\n"
	case len(res.Refused) > 0:
		fmt.Fprintf(&out, "%d refused\n", len(res.Refused))
	}
	if !res.Changed {
		return out.String() + "no change\n"
	}
	return out.String() + describe(r.state)
}

func describe(s *State) string {
	v := s.View()
	if v == nil {
		return "unformatted\n"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "epoch %d, revision %d: %s\n", v.Epoch, v.Revision, describeMembers(v.Members))
	for _, t := range s.tables {
		if len(s.tables) > 1 {
			fmt.Fprintf(&out, "copies %s\n", t.policy)
		}
		describeTable(&out, v, v.Tables[t.policy])
	}
	return out.String()
}

func describeMembers(members []sheepdog.Member) string {
	var words []string
	for _, m := range members {
		w := fmt.Sprintf("%d.%d", m.ID, m.Incarnation)
		if m.VNodes == 0 {
			w += "g"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func describeTable(out *strings.Builder, v *sheepdog.View, t sheepdog.Table) {
	shared := make(map[*sheepdog.Placement]int)
	for _, p := range t {
		shared[p]++
	}
	counts := make(map[string]int)
	for p, n := range shared {
		counts[describePlacement(v, p)] += n
	}
	for _, line := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "%6d %s\n", counts[line], line)
	}
}

func describePlacement(v *sheepdog.View, p *sheepdog.Placement) string {
	words := []string{"acting"}
	for _, id := range slices.Sorted(slices.Values(p.Acting)) {
		if _, ok := v.Member(id); ok {
			words = append(words, fmt.Sprint(uint64(id)))
		} else {
			words = append(words, fmt.Sprintf("(%d)", uint64(id)))
		}
	}
	words = append(words, "target")
	for _, id := range slices.Sorted(slices.Values(p.Target)) {
		words = append(words, fmt.Sprint(uint64(id)))
	}
	words = append(words, fmt.Sprintf("since %d", p.Since))
	if p.State == sheepdog.Unclean {
		words = append(words, "unclean")
	}
	return strings.Join(words, " ")
}

func describeHistory(s *State) string {
	var out strings.Builder
	for _, e := range s.History() {
		fmt.Fprintf(&out, "%d %s %s\n", e.Epoch, e.Time.Format("15:04:05"), describeMembers(e.Members))
	}
	return out.String()
}

func policyArg(t *testing.T, d *datadriven.TestData) sheepdog.Policy {
	p := sheepdog.Policy{Copies: 3}
	if d.HasArg("copies") {
		var text string
		d.ScanArgs(t, "copies", &text)
		if err := p.UnmarshalText([]byte(text)); err != nil {
			d.Fatalf(t, "%v", err)
		}
	}
	return p
}

func parseFormat(t *testing.T, d *datadriven.TestData, now time.Time) *Format {
	f := &Format{
		Cluster: sheepdog.ClusterID{1},
		Config:  sheepdog.Config{Policy: policyArg(t, d), BlockSizeShift: sheepdog.DefaultObjectShift},
		Time:    now,
	}
	f.Members = parseNodes(t, d, "members")
	return f
}

func parseChange(t *testing.T, d *datadriven.TestData, now time.Time) *Change {
	c := &Change{Time: now, Join: parseNodes(t, d, "join")}
	for _, m := range parseNodes(t, d, "remove") {
		c.Remove = append(c.Remove, MemberRef{m.ID, m.Incarnation})
	}
	for _, m := range parseNodes(t, d, "confirmed") {
		c.Confirmed = append(c.Confirmed, MemberRef{m.ID, m.Incarnation})
	}
	for _, m := range parseNodes(t, d, "demote") {
		c.Demote = append(c.Demote, MemberRef{m.ID, m.Incarnation})
	}
	for _, text := range argValues(d, "weight") {
		var w Weight
		if _, err := fmt.Sscanf(text, "%d:%d", (*uint64)(&w.ID), &w.VNodes); err != nil {
			d.Fatalf(t, "weight %q: %v", text, err)
		}
		c.Weights = append(c.Weights, w)
	}
	return c
}

// parseHolders reads holder=ID.INCARNATION: each holds the partitions of which
// the number is divided by the argument every, by default all.
func parseHolders(t *testing.T, d *datadriven.TestData) (out []Holder) {
	every := 1
	if d.HasArg("every") {
		d.ScanArgs(t, "every", &every)
	}
	for _, m := range parseNodes(t, d, "holder") {
		h := Holder{MemberRef: MemberRef{ID: m.ID, Incarnation: m.Incarnation}}
		for p := 0; p < sheepdog.Partitions; p += every {
			h.Partitions = append(h.Partitions, sheepdog.Partition(p))
		}
		out = append(out, h)
	}
	return out
}

func parseConfigure(t *testing.T, d *datadriven.TestData) *Configure {
	c := &Configure{}
	if d.HasArg("copies") {
		p := policyArg(t, d)
		c.Policy = &p
	}
	for _, text := range argValues(d, "recovery") {
		off := text == "off"
		c.RecoveryDisabled = &off
	}
	return c
}

// parseStep reads who promotes or cleans, and the partitions: by default all in
// which that could succeed, as they are now; `since` overrides how they were.
func (r *script) parseStep(t *testing.T, d *datadriven.TestData) (sheepdog.Member, []PartitionSince) {
	node := parseNodes(t, d, "node")[0]
	limit := sheepdog.Partitions
	if d.HasArg("limit") {
		d.ScanArgs(t, "limit", &limit)
	}
	var since uint64
	if d.HasArg("since") {
		d.ScanArgs(t, "since", &since)
	}
	var items []PartitionSince
	table, ok := r.state.View().Tables[policyArg(t, d)]
	if !ok {
		d.Fatalf(t, "no such table")
	}
	for p, row := range table {
		if len(items) == limit {
			break
		}
		if d.Cmd == "promote" && (row.IsActing(node.ID) || !slices.Contains(row.Target, node.ID)) && !d.HasArg("force") {
			continue
		}
		if d.Cmd == "clean" && !row.IsActing(node.ID) {
			continue
		}
		item := PartitionSince{Partition: sheepdog.Partition(p), Since: row.Since}
		if since > 0 {
			item.Since = sheepdog.Revision(since)
		}
		items = append(items, item)
	}
	return node, items
}

// parseNodes reads nodes written as ID.INCARNATION, with a g for a gateway and
// @ZONE for another zone than their id.
func parseNodes(t *testing.T, d *datadriven.TestData, key string) []sheepdog.Member {
	var out []sheepdog.Member
	for _, text := range argValues(d, key) {
		m := sheepdog.Member{VNodes: sheepdog.DefaultVNodes}
		text, zone, zoned := strings.Cut(text, "@")
		text, m.Incomplete = strings.CutSuffix(text, "-")
		text, gateway := strings.CutSuffix(text, "g")
		if gateway {
			m.VNodes = 0
		}
		if _, err := fmt.Sscanf(text, "%d.%d", (*uint64)(&m.ID), (*uint64)(&m.Incarnation)); err != nil {
			d.Fatalf(t, "node %q: %v", text, err)
		}
		m.Zone = sheepdog.Zone(m.ID)
		if zoned {
			if _, err := fmt.Sscan(zone, &m.Zone); err != nil {
				d.Fatalf(t, "zone %q: %v", zone, err)
			}
		}
		m.Addr = fmt.Sprintf("10.0.0.%d:7000", m.ID)
		out = append(out, m)
	}
	return out
}

func argValues(d *datadriven.TestData, key string) []string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return a.Vals
		}
	}
	return nil
}
