package api

import (
	"cmp"
	"slices"

	"sheepdog"
)

// Usable is how many bytes of data of a policy can still be written. Replicas of an
// object are in distinct zones, so a big zone beside small ones cannot be filled, and
// nothing can be written beside a full one that is needed.
func (c *Capacities) Usable(p sheepdog.Policy) uint64 {
	free := map[sheepdog.Zone]uint64{}
	for i := range c.Nodes {
		if n := &c.Nodes[i]; n.UsedBytes+n.FreeBytes > 0 { // it stores
			free[n.Zone] += n.FreeBytes
		}
	}
	return spread(free, uint64(max(p.Zones(), 1))) * uint64(p.DataStrips())
}

// spread is how many bytes can be stored if each is in width distinct zones. With
// fewer zones than that, in all of them.
func spread(zones map[sheepdog.Zone]uint64, width uint64) uint64 {
	var room []uint64
	for _, n := range zones {
		room = append(room, n)
	}
	slices.SortFunc(room, func(a, b uint64) int { return cmp.Compare(b, a) })
	width = min(width, uint64(len(room)))
	if width == 0 {
		return 0
	}
	// The k largest zones take one replica of everything each; the rest share
	// what remains. The tightest k decides.
	var rest uint64
	for _, n := range room {
		rest += n
	}
	best := rest / width
	for k := uint64(1); k < width; k++ {
		rest -= room[k-1]
		best = min(best, rest/(width-k))
	}
	return best
}
