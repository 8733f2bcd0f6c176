package node

import (
	"fmt"
	"time"

	"sheepdog"
)

// Bounds of the wait until this node looks again at what is spoiled here. Where that has it
// stop acting it does so everywhere, and is compared with the others anew.
const (
	spoiledRetry    = time.Second
	spoiledRetryMax = 5 * time.Minute
)

// tendSpoiled has the objects of this node that are spoiled fetched anew, until the node
// ends: whatever keeps one here goes away some time, and nobody tells of that. It may be
// that there is no view yet, or that no other replica is back after a loss of all power.
func (n *Node) tendSpoiled(engine sheepdog.SpoiledEngine) {
	wait := spoiledRetry
	for n.ctx.Err() == nil {
		spoiled, more := engine.Spoiled()
		if err := n.replaceSpoiled(spoiled); err != nil {
			n.log.Error("spoiled objects stay here for now", "objects", len(spoiled), "err", err)
		}
		var again <-chan time.Time
		if len(spoiled) > 0 {
			again = time.After(wait)
			wait = min(2*wait, spoiledRetryMax)
		} else {
			wait = spoiledRetry
		}
		select {
		case <-more:
		case <-again:
		case <-n.ctx.Done():
		}
	}
}

// replaceSpoiled does what is up to this node about spoiled objects. A strip is dropped,
// and made anew of others. Of a replica nothing can be dropped while it acts: first this
// node stops acting for it, then recovery drops it.
func (n *Node) replaceSpoiled(spoiled []sheepdog.ListEntry) error {
	acts, strips := false, false
	for _, e := range spoiled {
		if l, ok := n.dir.Coded(e.Layer); ok {
			if !l.Complete() {
				continue // whoever encodes it finds out, and begins anew
			}
			if err := n.engine.DropObject(e.Object, e.Layer); err != nil {
				return fmt.Errorf("drop spoiled strip %d of object %s: %w", e.Layer, e.Object, err)
			}
			strips = true
			continue
		}
		acts = acts || n.actsBesideOthers(e.Object)
	}
	if strips {
		n.keeper.LookAgain()
	}
	if !acts {
		return nil
	}
	n.doubt()
	return n.demote()
}

// actsBesideOthers reports whether this node acts for an object, and a member does beside it.
func (n *Node) actsBesideOthers(obj sheepdog.ObjectID) bool {
	v := n.cluster.View()
	f, ok := n.dir.Family(obj.Family)
	if v == nil || !ok {
		return false
	}
	pl, ok := v.Placement(f.Policy, obj.Partition())
	if !ok || !pl.IsActing(n.self.ID) {
		return false
	}
	members, _ := v.ActingMembers(pl)
	return len(members) > 1
}
