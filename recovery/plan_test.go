package recovery

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// TestPlan runs the scripts in testdata/plan. A view is given by a line of
// members and a line per partition:
//
//	view revision=10 members=(1,2,3)
//	0: acting 1 2 target 1 2 3 [unclean] [since 9]
//
// Node n has incarnation n; `n+` is node n started once more. The command plan
// prints what a node has to do, substitutes where it stands in for a removed
// node since the view before.
func TestPlan(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		var prev, now *sheepdog.View
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "view":
				prev, now = now, parseView(t, d)
				return ""
			case "plan":
				return describePlan(planOf(now, selfArg(t, d)))
			case "substitutes":
				var out strings.Builder
				for _, at := range Substitutes(prev, now, selfArg(t, d)) {
					fmt.Fprintf(&out, "partition %d\n", at.Partition)
				}
				return out.String()
			}
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		})
	})
}

// planOf is what a node has to do in a view, whatever was before.
func planOf(v *sheepdog.View, self sheepdog.NodeID) *Plan {
	return planFrom(newAsking(self), v, self, nil)
}

func selfArg(t *testing.T, d *datadriven.TestData) sheepdog.NodeID {
	var id int
	d.ScanArgs(t, "node", &id)
	return sheepdog.NodeID(id)
}

func parseView(t *testing.T, d *datadriven.TestData) *sheepdog.View {
	v := replicatest.NewView(0, nil, nil, nil)
	var revision int
	d.ScanArgs(t, "revision", &revision)
	v.Revision = sheepdog.Revision(revision)
	arg, _ := d.Arg("members")
	for _, text := range arg.Vals {
		id, again := strings.CutSuffix(text, "+")
		m := sheepdog.Member{ID: parseNode(t, id), VNodes: 1}
		m.Incarnation = sheepdog.Incarnation(m.ID)
		if again {
			m.Incarnation += 100
		}
		v.Members = append(v.Members, m)
	}
	for line := range strings.Lines(d.Input) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		p, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		v.Tables[policy][p] = parsePlacement(t, rest, v.Revision)
	}
	return v
}

func parseNode(t *testing.T, text string) sheepdog.NodeID {
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return sheepdog.NodeID(n)
}

func parsePlacement(t *testing.T, text string, since sheepdog.Revision) *sheepdog.Placement {
	pl := &sheepdog.Placement{Since: since}
	mode := ""
	for _, word := range strings.Fields(text) {
		switch word {
		case "acting", "target", "since":
			mode = word
			continue
		case "unclean":
			pl.State = sheepdog.Unclean
			continue
		}
		n := parseNode(t, word)
		switch mode {
		case "acting":
			pl.Acting = append(pl.Acting, n)
		case "target":
			pl.Target = append(pl.Target, n)
		case "since":
			pl.Since = sheepdog.Revision(n)
		}
	}
	return pl
}

func describePlan(p *Plan) string {
	var out strings.Builder
	for _, g := range p.Backfill {
		fmt.Fprintf(&out, "backfill from %d: %s\n", g.Sources[0], describeItems(g.Items))
	}
	for _, g := range p.Reconcile {
		ids := make([]string, len(g.Sources))
		for i, id := range g.Sources {
			ids[i] = strconv.Itoa(int(id))
		}
		fmt.Fprintf(&out, "reconcile %s: %s\n", strings.Join(ids, " "), describeItems(g.Items))
	}
	fmt.Fprintf(&out, "pending %d, waiting %d\n", p.Pending, p.Waiting)
	return out.String()
}

func describeItems(items []Item) string {
	var words []string
	for _, item := range items {
		words = append(words, fmt.Sprintf("%d@%d", item.Partition, item.Since))
	}
	return strings.Join(words, " ")
}

// TestJudge runs testdata/judge. Every line is a replica: its stamp or
// "absent", and "bad".
func TestJudge(t *testing.T) {
	datadriven.RunTest(t, "testdata/judge", func(t *testing.T, d *datadriven.TestData) string {
		var versions []version
		for line := range strings.Lines(d.Input) {
			var v version
			for _, word := range strings.Fields(line) {
				switch word {
				case "absent":
				case "bad":
					v.bad = true
				case "othercrc":
					v.CRC = 1
				default:
					v.State = sheepdog.Data
					if _, err := fmt.Sscanf(word, "%d.%d", &v.Stamp.Token, &v.Stamp.Seq); err != nil {
						t.Fatal(err)
					}
				}
			}
			versions = append(versions, v)
		}
		j := judge(versions)
		return fmt.Sprintf("stamp %d.%d source %d wrong %v older %v\n", j.stamp.Token, j.stamp.Seq, j.source, j.wrong, j.older)
	})
}
