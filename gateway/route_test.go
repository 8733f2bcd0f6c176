package gateway

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// What every request looks up: who has its object. Partitions with the same
// replicas share a row of the table, as package state has it.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			c := newCluster()
			c.view = wideView(n)
			g := New(1, c, answeringPeers{}, func(sheepdog.Member) {}, DefaultTiming(), nil)
			obj := sheepdog.ObjectID{Family: 7}
			for b.Loop() {
				obj.Index = (obj.Index + 1) % 4096 // a disk of 16 GiB
				if g.route(c.view, three, obj.Partition()) == nil {
					b.Fatal("nobody serves")
				}
			}
		})
	}
}

// wideView has three replicas of every partition, or as many as there are nodes, on
// nodes that are drawn.
func wideView(n int) *sheepdog.View {
	v := &sheepdog.View{Revision: 1, Tables: map[sheepdog.Policy]sheepdog.Table{}}
	for i := range n {
		id := sheepdog.NodeID(i + 1)
		v.Members = append(v.Members, sheepdog.Member{ID: id, Incarnation: 1, Zone: sheepdog.Zone(id), VNodes: 1})
	}
	draw := rand.New(rand.NewPCG(1, uint64(n)))
	rows := map[[3]sheepdog.NodeID]*sheepdog.Placement{}
	t := make(sheepdog.Table, sheepdog.Partitions)
	for p := range t {
		var key [3]sheepdog.NodeID
		nodes := draw.Perm(n)
		for i := range min(3, n) {
			key[i] = v.Members[nodes[i]].ID
		}
		if rows[key] == nil {
			acting := append([]sheepdog.NodeID(nil), key[:min(3, n)]...)
			rows[key] = &sheepdog.Placement{Acting: acting, Target: acting, Since: 1}
		}
		t[p] = rows[key]
	}
	v.Tables[three] = t
	return v
}
