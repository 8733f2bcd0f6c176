package ring

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"sheepdog"
)

// Members come, go, and change weight and zone, several at once, through clusters
// of every small size: the placement that is made of the one before is the one that
// is made anew.
func TestReplaceIsPlace(t *testing.T) {
	const width = 3
	draw := rand.New(rand.NewPCG(1, 46))
	var members []sheepdog.Member
	rows := Place(members, width)
	for step := range 40 {
		next := changed(draw, members, step)
		got := Replace(members, next, width, func(p sheepdog.Partition) []sheepdog.NodeID { return rows[p] })
		for p, want := range Place(next, width) {
			if !slices.Equal(got[p], want) {
				t.Fatalf("step %d, partition %d: %v, want %v\nof %+v\nto %+v", step, p, got[p], want, members, next)
			}
		}
		members, rows = next, got
	}
}

func changed(draw *rand.Rand, members []sheepdog.Member, step int) []sheepdog.Member {
	out := slices.Clone(members)
	for range 1 + draw.IntN(3) {
		switch kind := draw.IntN(5); {
		case len(out) < 2 || kind < 2:
			out = append(out, sheepdog.Member{ID: nodeID(100*step + len(out)), Zone: sheepdog.Zone(draw.IntN(5)), VNodes: 128})
		case kind == 2:
			i := draw.IntN(len(out))
			out = slices.Delete(out, i, i+1)
		case kind == 3:
			out[draw.IntN(len(out))].VNodes = uint16(draw.IntN(3) * 100) // 0: stores no more
		default:
			out[draw.IntN(len(out))].Zone = sheepdog.Zone(draw.IntN(5))
		}
	}
	return out
}

// What a change is not about keeps its memory: whoever knows the list need not look.
func TestReplaceKeepsListsThatStay(t *testing.T) {
	members := nodes(20, 20)
	rows := Place(members, 3)
	got := Replace(members, members[1:], 3, func(p sheepdog.Partition) []sheepdog.NodeID { return rows[p] })
	for p, row := range rows {
		if had := slices.Contains(row, members[0].ID); had == (&got[p][0] == &row[0]) {
			t.Fatalf("partition %d: %v became %v, in memory of its own: %v", p, row, got[p], had)
		}
	}
}

func BenchmarkReplaceOne(b *testing.B) {
	for _, n := range []int{4, 16, 64} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			members := nodes(n, n)
			rows := Place(members, 3)
			for b.Loop() {
				Replace(members, members[1:], 3, func(p sheepdog.Partition) []sheepdog.NodeID { return rows[p] })
			}
		})
	}
}
