package coded

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sheepdog"
)

func nodesOf(ids ...sheepdog.NodeID) []sheepdog.NodeID { return ids }

func TestPlanStrips(t *testing.T) {
	for _, c := range []struct {
		name  string
		homes []sheepdog.NodeID
		held  [][]sheepdog.NodeID
		want  string
	}{
		{"in place", nodesOf(1, 2, 3), [][]sheepdog.NodeID{{1}, {2}, {3}}, "missing [] build map[] drop map[]"},
		{"order does not matter", nodesOf(3, 1, 2), [][]sheepdog.NodeID{{1}, {2}, {3}}, "missing [] build map[] drop map[]"},
		{"a home lacks its strip", nodesOf(1, 2, 3), [][]sheepdog.NodeID{{1}, nil, {3}}, "missing [1] build map[2:1] drop map[]"},
		{"a new home copies from the old one", nodesOf(1, 4, 3), [][]sheepdog.NodeID{{1}, {2}, {3}}, "missing [1] build map[4:1] drop map[]"},
		{"the old one drops it then", nodesOf(1, 4, 3), [][]sheepdog.NodeID{{1}, {2, 4}, {3}}, "missing [] build map[] drop map[2:[1]]"},
		{"two new homes share the work", nodesOf(4, 5, 3), [][]sheepdog.NodeID{{1}, {2}, {3}}, "missing [0 1] build map[4:0 5:1] drop map[]"},
		{"one home has two", nodesOf(1, 2, 3), [][]sheepdog.NodeID{{1}, {1}, {3}}, "missing [1] build map[2:1] drop map[]"},
		{"two have the same", nodesOf(1, 2, 3), [][]sheepdog.NodeID{{1, 2}, nil, {3}}, "missing [1] build map[2:1] drop map[]"},
		{"too few homes", nodesOf(1, 2), [][]sheepdog.NodeID{{1}, {2}, nil}, "missing [2] build map[] drop map[]"},
	} {
		p := planStrips(c.homes, 3, c.held)
		got := strings.ReplaceAll(fmt.Sprintf("missing %v build %v drop %v", p.missing, p.build, p.drop), "000000000000000", "")
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// Whoever holds what, nodes that follow the plan end with every strip once, each
// on a home of its own, and no step takes the last copy of a strip.
func TestPlanStripsConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		strips := rapid.IntRange(2, 7).Draw(t, "strips")
		var homes []sheepdog.NodeID
		for _, id := range rapid.Permutation([]sheepdog.NodeID{1, 2, 3, 4, 5, 6, 7, 8, 9}).Draw(t, "homes")[:strips] {
			homes = append(homes, id)
		}
		held := make([][]sheepdog.NodeID, strips)
		for k := range held {
			held[k] = rapid.SliceOfNDistinct(rapid.SampledFrom([]sheepdog.NodeID{1, 2, 3, 4, 5, 6, 7, 8, 9}), 0, 4, rapid.ID[sheepdog.NodeID]).Draw(t, "held")
		}
		for range 3 {
			p := planStrips(homes, strips, held)
			for id, k := range p.build {
				held[k] = append(held[k], id)
			}
			for id, ks := range p.drop {
				for _, k := range ks {
					held[k] = slices.DeleteFunc(held[k], func(n sheepdog.NodeID) bool { return n == id })
				}
			}
		}
		seen := make(map[sheepdog.NodeID]bool)
		for k := range held {
			if len(held[k]) != 1 || seen[held[k][0]] || !slices.Contains(homes, held[k][0]) {
				t.Fatalf("strip %d is on %v, homes %v, all %v", k, held[k], homes, held)
			}
			seen[held[k][0]] = true
		}
	})
}
