package gateway

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
)

// next publishes the view after the present one, of which edit changes what it likes.
func (c *cluster) next(edit func(v *sheepdog.View, t sheepdog.Table)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := *c.view
	v.Revision++
	v.Members = slices.Clone(v.Members)
	t := slices.Clone(v.Tables[three])
	v.Tables = map[sheepdog.Policy]sheepdog.Table{three: t}
	edit(&v, t)
	c.view = &v
	close(c.changed)
	c.changed = make(chan struct{})
}

// Bug: any new view began a takeover anew. While many nodes are filled there is one
// every few milliseconds, and no disk could be opened for as long as that took.
func TestTakeoverGoesOnWhileNodesAreFilledElsewhere(t *testing.T) {
	obj := sheepdog.ObjectID{Family: 1, Index: 1}
	elsewhere := obj.Partition() + 1
	promote := func(p sheepdog.Partition) func(*sheepdog.View, sheepdog.Table) {
		return func(v *sheepdog.View, t sheepdog.Table) {
			t[p] = &sheepdog.Placement{Acting: ids(1, 2, 3), Target: ids(1, 2, 3), Since: v.Revision}
		}
	}
	for _, tt := range []struct {
		name  string
		edit  func(*sheepdog.View, sheepdog.Table)
		seals int
	}{
		{"a promotion elsewhere", promote(elsewhere), 1},
		{"a promotion where blocks were dirty", promote(obj.Partition()), 2},
		{"a partition that is compared", func(v *sheepdog.View, t sheepdog.Table) {
			t[elsewhere] = &sheepdog.Placement{Acting: ids(1, 2), Target: ids(1, 2, 3), Since: v.Revision, State: sheepdog.Unclean}
		}, 2},
		{"another membership", func(v *sheepdog.View, _ sheepdog.Table) { v.Epoch++ }, 2},
		{"a node that was not asked", func(v *sheepdog.View, t sheepdog.Table) {
			t[elsewhere] = &sheepdog.Placement{Acting: ids(1, 2), Target: ids(1, 2, 4), Since: v.Revision}
		}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(1, 2, 3, 4)
				c.publish(1, sheepdog.Clean, ids(1, 2), ids(1, 2, 3))
				c.nodes[1].dirty = []sheepdog.DirtyBlocks{{Object: obj, Layer: 1, Count: 1}}
				seals := 0
				c.nodes[2].fail = func(op string) error {
					if op != "seal" {
						return nil
					}
					if seals++; seals == 1 {
						c.next(tt.edit)
						time.AfterFunc(time.Minute, func() { c.next(promote(elsewhere)) }) // what was compared is clean
					}
					return nil
				}
				if _, err := c.gateway().Takeover(t.Context(), sheepdog.Scope{Family: 1, Policy: three, Token: 2}); err != nil {
					t.Fatal(err)
				}
				if seals != tt.seals {
					t.Errorf("node 2 was asked to seal %d times, want %d", seals, tt.seals)
				}
			})
		})
	}
}

// Bug: a takeover asked all replicas for the records of every object that was written
// since the last flush: tens of thousands, if a guest writes all over a large disk. Of
// those that all report alike it asks none.
func TestTakeoverAsksOnlyWhereReplicasDiffer(t *testing.T) {
	const objects = 1000
	c := newCluster(1, 2, 3)
	c.publish(1, sheepdog.Clean, ids(1, 2), ids(1, 2, 3)) // 3 is a target: it reports what it was sent
	at := func(i sheepdog.Index, seq uint64) sheepdog.DirtyBlocks {
		return sheepdog.DirtyBlocks{Object: sheepdog.ObjectID{Family: 1, Index: i}, Layer: 1, Start: 3, Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: seq}}
	}
	for id, n := range c.nodes {
		for i := range sheepdog.Index(objects) {
			seq := uint64(i) + 1
			switch {
			case i == 7 && id == 2:
				seq = 5000 // a write that only one has
			case i == 8 && id == 3:
				continue // one that the target has not
			case i == 9 && id == 1:
				n.dirty = append(n.dirty, sheepdog.DirtyBlocks{Object: sheepdog.ObjectID{Family: 1, Index: i}, Layer: 1, Start: 2, Count: 2, Stamp: sheepdog.Stamp{Token: 1, Seq: seq}})
				continue // one that overlaps what others have
			}
			n.dirty = append(n.dirty, at(i, seq))
		}
		n.put(3, sheepdog.Stamp{Token: 1, Seq: 1}, 10)
	}
	if _, err := c.gateway().Takeover(t.Context(), sheepdog.Scope{Family: 1, Policy: three, Token: 2}); err != nil {
		t.Fatal(err)
	}
	for id, n := range c.nodes {
		want := 3
		if id == 3 {
			want = 2 // what it does not report it is not asked for
		}
		if n.fetched != want {
			t.Errorf("node %d was asked for the records of %d objects, want %d", id, n.fetched, want)
		}
		if n.flush == 0 {
			t.Errorf("node %d was not flushed", id)
		}
	}
}
