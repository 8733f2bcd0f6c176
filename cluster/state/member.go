package state

import (
	"cmp"
	"fmt"
	"slices"

	"sheepdog"
)

// MemberRef names one life of a node, so that a command about it does nothing
// to the next one.
type MemberRef struct {
	ID          sheepdog.NodeID      `json:"id"`
	Incarnation sheepdog.Incarnation `json:"incarnation"`
}

// Weight sets a node's V-Nodes; 0 makes it a gateway.
type Weight struct {
	ID     sheepdog.NodeID `json:"id"`
	VNodes uint16          `json:"vnodes"`
}

func compareMembers(a, b sheepdog.Member) int { return cmp.Compare(a.ID, b.ID) }

func searchMember(members []sheepdog.Member, id sheepdog.NodeID) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(m sheepdog.Member, id sheepdog.NodeID) int {
		return cmp.Compare(m.ID, id)
	})
}

func findMember(members []sheepdog.Member, id sheepdog.NodeID) (sheepdog.Member, bool) {
	i, ok := searchMember(members, id)
	if !ok {
		return sheepdog.Member{}, false
	}
	return members[i], true
}

// checkMembers refuses what could not be listed in a view.
func checkMembers(members []sheepdog.Member) error {
	if len(members) > MaxMembers {
		return fmt.Errorf("%w: %d members, at most %d are possible", sheepdog.ErrInvalid, len(members), MaxMembers)
	}
	seen := make(map[sheepdog.NodeID]bool, len(members))
	for _, m := range members {
		switch {
		case m.ID == 0 || m.Incarnation == 0:
			return fmt.Errorf("%w: member %s at %q has no id or no incarnation", sheepdog.ErrInvalid, m.ID, m.Addr)
		case len(m.Addr) > MaxAddr:
			return fmt.Errorf("%w: address of member %s has %d bytes, at most %d are possible", sheepdog.ErrInvalid, m.ID, len(m.Addr), MaxAddr)
		case seen[m.ID]:
			return fmt.Errorf("%w: member %s is listed twice", sheepdog.ErrInvalid, m.ID)
		}
		seen[m.ID] = true
	}
	return nil
}

// sameRing reports whether both lists get the same placement from the ring.
func sameRing(a, b []sheepdog.Member) bool {
	return slices.EqualFunc(a, b, func(x, y sheepdog.Member) bool {
		return x.ID == y.ID && x.Zone == y.Zone && x.VNodes == y.VNodes
	})
}
