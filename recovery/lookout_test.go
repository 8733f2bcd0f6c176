package recovery

import (
	"math/rand/v2"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// A lookout that followed many views plans what one plans that sees only the last.
func TestLookoutPlansAsIfItHadSeenNoViewBefore(t *testing.T) {
	draw := rand.New(rand.NewPCG(2, 46))
	some := func() []sheepdog.NodeID {
		all := nodes(1, 2, 3, 4)
		draw.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		return all[:1+draw.IntN(3)]
	}
	v := replicatest.NewView(1, nodes(1, 2, 3), nodes(1, 2), nodes(1, 2))
	asking := newAsking(3)
	for range 50 {
		v = replicatest.Next(v, func(next *sheepdog.View, table sheepdog.Table) {
			for range 20 {
				pl := &sheepdog.Placement{Acting: some(), Target: some(), Since: next.Revision, State: sheepdog.PartitionState(draw.IntN(2))}
				for first := draw.IntN(1000); first < 1000; first += 1 + draw.IntN(500) {
					table[first] = pl
				}
			}
		})
		if got, want := describePlan(planFrom(asking, v, 3, nil)), describePlan(planOf(v, 3)); got != want {
			t.Fatalf("revision %d: %s\nwant %s", v.Revision, got, want)
		}
	}
}
