package ring

import (
	"fmt"
	"math"
	"slices"
	"syscall"
	"testing"
	"time"

	"sheepdog"
)

// nodes makes n members of equal weight spread over the zones.
func nodes(n, zones int) []sheepdog.Member {
	out := make([]sheepdog.Member, n)
	for i := range out {
		out[i] = sheepdog.Member{ID: nodeID(i), Zone: sheepdog.Zone(i % zones), VNodes: sheepdog.DefaultVNodes}
	}
	return out
}

// nodeID gives ids that look as random as real ones, and repeat.
func nodeID(i int) sheepdog.NodeID { return sheepdog.NodeID(mix64(uint64(i) + 0x5eed)) }

func loads(rows [][]sheepdog.NodeID) map[sheepdog.NodeID]int {
	out := make(map[sheepdog.NodeID]int)
	for _, row := range rows {
		for _, id := range row {
			out[id]++
		}
	}
	return out
}

// moved counts the replicas of after that were not there before.
func moved(before, after [][]sheepdog.NodeID) (n int) {
	for p := range after {
		for _, id := range after[p] {
			if !slices.Contains(before[p], id) {
				n++
			}
		}
	}
	return n
}

func TestPlaceFillsEveryPartitionInDistinctZones(t *testing.T) {
	cases := []struct{ nodes, zones, width, want int }{
		{1, 1, 3, 1}, {2, 2, 3, 2}, {3, 3, 3, 3}, {6, 2, 3, 2}, {12, 4, 3, 3}, {40, 40, 31, 31}, {9, 9, 1, 1},
	}
	for _, c := range cases {
		members := nodes(c.nodes, c.zones)
		zone := make(map[sheepdog.NodeID]sheepdog.Zone)
		for _, m := range members {
			zone[m.ID] = m.Zone
		}
		for p, row := range Place(members, c.width) {
			if len(row) != c.want {
				t.Fatalf("%+v: partition %d has %d nodes, want %d", c, p, len(row), c.want)
			}
			seen := make(map[sheepdog.Zone]bool)
			for _, id := range row {
				if seen[zone[id]] {
					t.Fatalf("%+v: partition %d has two nodes in zone %d: %v", c, p, zone[id], row)
				}
				seen[zone[id]] = true
			}
		}
	}
}

func TestPlaceWithoutStorage(t *testing.T) {
	gateways := nodes(3, 3)
	for i := range gateways {
		gateways[i].VNodes = 0
	}
	for _, rows := range [][][]sheepdog.NodeID{Place(nil, 3), Place(gateways, 3), Place(nodes(3, 3), 0)} {
		if len(rows) != sheepdog.Partitions {
			t.Fatalf("%d rows, want %d", len(rows), sheepdog.Partitions)
		}
		if i := slices.IndexFunc(rows, func(r []sheepdog.NodeID) bool { return len(r) > 0 }); i >= 0 {
			t.Errorf("partition %d is placed on %v, want nowhere", i, rows[i])
		}
	}
}

func TestGatewaysAndOrderDoNotMatter(t *testing.T) {
	members := nodes(7, 5)
	want := Place(members, 3)
	other := append(slices.Clone(members), sheepdog.Member{ID: nodeID(99), Zone: 99})
	slices.Reverse(other)
	other[3].Addr, other[3].Incarnation = "elsewhere:7000", 42
	got := Place(other, 3)
	for p := range want {
		if !slices.Equal(got[p], want[p]) {
			t.Fatalf("partition %d: %v, want %v", p, got[p], want[p])
		}
	}
}

func TestSmallerWidthIsPrefix(t *testing.T) {
	members := nodes(20, 10)
	wide := Place(members, 9)
	for width := 1; width < 9; width += 3 {
		for p, row := range Place(members, width) {
			if !slices.Equal(row, wide[p][:width]) {
				t.Fatalf("width %d, partition %d: %v is no prefix of %v", width, p, row, wide[p])
			}
		}
	}
}

// A plain statement of the rule: sort all candidates by score, take the best of
// each zone.
func TestPlaceAgreesWithSorting(t *testing.T) {
	members := nodes(15, 6)
	for i := range members {
		members[i].VNodes = uint16(1 + i*i*37)
	}
	logs := newLogTable()
	rows := Place(members, 4)
	for p := 0; p < sheepdog.Partitions; p += 101 {
		var all []entry
		for i, c := range storing(members) {
			cost := logs.cost(mix64(partitionSeed(sheepdog.Partition(p)) ^ c.seed))
			all = append(all, entry{node: i, id: c.id, zone: c.zone, weight: c.weight, cost: cost})
		}
		slices.SortFunc(all, func(a, b entry) int {
			if a.beats(&b) {
				return -1
			}
			return 1
		})
		var want []sheepdog.NodeID
		used := make(map[sheepdog.Zone]bool)
		for _, e := range all {
			if !used[e.zone] && len(want) < 4 {
				used[e.zone] = true
				want = append(want, e.id)
			}
		}
		if !slices.Equal(rows[p], want) {
			t.Fatalf("partition %d: %v, want %v", p, rows[p], want)
		}
	}
}

func TestBalance(t *testing.T) {
	for _, n := range []int{3, 6, 12, 64} {
		load := loads(Place(nodes(n, n), 3))
		mean := float64(3*sheepdog.Partitions) / float64(n)
		for id, l := range load {
			if r := float64(l) / mean; r > 1.1 || r < 0.9 {
				t.Errorf("%d nodes: node %s holds %.3f of the mean", n, id, r)
			}
		}
	}
}

// A node's first places are its reads; they must be spread too.
func TestFirstPlaceIsBalanced(t *testing.T) {
	rows := Place(nodes(12, 12), 3)
	first := make(map[sheepdog.NodeID]int)
	for _, row := range rows {
		first[row[0]]++
	}
	for id, n := range first {
		if r := float64(n) * 12 / sheepdog.Partitions; r > 1.1 || r < 0.9 {
			t.Errorf("node %s is first for %.3f of the mean", id, r)
		}
	}
}

// With one copy a node's share is its weight's share.
func TestWeightIsShare(t *testing.T) {
	members := nodes(8, 8)
	total := 0.0
	for i := range members {
		members[i].VNodes = uint16(64 * (i + 1))
		total += float64(members[i].VNodes)
	}
	load := loads(Place(members, 1))
	for _, m := range members {
		want := float64(m.VNodes) / total * sheepdog.Partitions
		if r := float64(load[m.ID]) / want; r < 0.93 || r > 1.07 {
			t.Errorf("weight %d: %.3f of its share", m.VNodes, r)
		}
	}
}

func TestMovement(t *testing.T) {
	for _, n := range []int{4, 12, 64} {
		members := nodes(n, n)
		before := Place(members, 3)
		replicas := float64(3 * sheepdog.Partitions)

		joined := Place(append(slices.Clone(members), sheepdog.Member{ID: nodeID(1000), Zone: 1000, VNodes: sheepdog.DefaultVNodes}), 3)
		if got, least := float64(moved(before, joined)), replicas/float64(n+1); got > 1.1*least {
			t.Errorf("%d nodes: a join moves %.0f replicas, %.3f of the least possible", n, got, got/least)
		}

		gone := members[n/2].ID
		left := Place(slices.Delete(slices.Clone(members), n/2, n/2+1), 3)
		if got, least := float64(moved(before, left)), float64(loads(before)[gone]); got > 1.1*least {
			t.Errorf("%d nodes: a leave moves %.0f replicas, %.3f of the least possible", n, got, got/least)
		}
	}
}

// Only the node whose weight changes gains or loses.
func TestWeightChangeMovesOnlyItsNode(t *testing.T) {
	members := nodes(10, 10)
	before := Place(members, 3)
	members[4].VNodes *= 2
	after := Place(members, 3)
	for p := range after {
		for _, id := range after[p] {
			if id != members[4].ID && !slices.Contains(before[p], id) {
				t.Fatalf("partition %d moved to %s, whose weight did not change", p, id)
			}
		}
		if slices.Contains(before[p], members[4].ID) && !slices.Contains(after[p], members[4].ID) {
			t.Fatalf("partition %d left the node whose weight rose", p)
		}
	}
}

func TestCostIsLogarithm(t *testing.T) {
	logs := newLogTable()
	for i := range uint64(200_000) {
		h := mix64(i) >> (i % 64)
		want := 64 - math.Log2(float64(h)+1)
		got := float64(logs.cost(h)) / (1 << fractionBits)
		if math.Abs(got-want) > 1e-6 {
			t.Fatalf("cost(%#x) = %.9f, want %.9f", h, got, want)
		}
	}
	if c := logs.cost(math.MaxUint64); c != 1 {
		t.Errorf("cost of the largest hash = %d, want 1", c)
	}
	if c := logs.cost(0); c != 64<<fractionBits {
		t.Errorf("cost(0) = %d, want %d", c, uint64(64)<<fractionBits)
	}
}

func TestCostFalls(t *testing.T) {
	logs := newLogTable()
	last := logs.cost(0)
	for h := uint64(1); h < 1<<63; h += h>>6 + 1 {
		c := logs.cost(h)
		if c > last {
			t.Fatalf("cost rises at %#x", h)
		}
		last = c
	}
}

func TestPlaceIsFast(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("measures time")
	}
	members := nodes(64, 64)
	best := time.Hour
	for range 5 { // caches may be cold: the best counts
		start := cpuTime(t)
		Place(members, 3)
		best = min(best, cpuTime(t)-start)
	}
	if best > 300*time.Millisecond {
		t.Errorf("placing 64 nodes took %v of CPU, want less than 300 ms", best)
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

func BenchmarkPlace(b *testing.B) {
	for _, n := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			members := nodes(n, n)
			for b.Loop() {
				Place(members, 3)
			}
		})
	}
}
