package directory

import (
	"slices"
	"sync/atomic"

	"sheepdog"
)

// departedKept bounds the departures that are remembered; who asks less often looks at
// all layers.
const departedKept = 1 << 14

// changes is what has changed of the layers, for who does not want to look at all of
// them each time. It goes on when the state is replaced.
type changes struct {
	coded atomic.Uint64 // moves when what AllCoded lists changes
	// departed are layers that came to be Dropped, in that order; the newest has the
	// number last. Guarded by Directory.mu.
	departed []sheepdog.LayerID
	last     uint64
}

func (c *changes) depart(id sheepdog.LayerID) {
	if len(c.departed) == departedKept {
		c.departed = slices.Delete(c.departed, 0, departedKept/2)
	}
	c.departed = append(c.departed, id)
	c.last++
}

func newChanges() *changes { return &changes{last: 1} }

// restart says that any layer may have departed, and any coded layer changed.
func (c *changes) restart() {
	c.departed = nil
	c.last++ // nobody has asked so far
	c.coded.Add(1)
}

// Departed lists the layers that came to be Dropped after a number that an earlier
// call returned, and how far that goes. It is not complete if too many have since, or
// if the directory was replaced; nor from 0 on.
func (d *Directory) Departed(after uint64) (ids []sheepdog.LayerID, upTo uint64, complete bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	c := d.state.Load().changes
	oldest := c.last - uint64(len(c.departed))
	if after < oldest || after > c.last {
		return nil, c.last, false
	}
	return slices.Clone(c.departed[after-oldest:]), c.last, true
}

// CodedVersion moves with every change of what AllCoded lists.
func (d *Directory) CodedVersion() uint64 { return d.state.Load().changes.coded.Load() }
