package directory

import "time"

// Reset empties the directory when the cluster is formatted again. Ids of
// layers and families and tokens go on where they were, so that nothing old can
// be taken for something new.
type Reset struct {
	Time time.Time `json:"time"`
}

func (c *Reset) validate() error { return nil }

func (c *Reset) apply(s *state) (any, error) {
	s.clear()
	return nil, nil
}

// Clear does what the command Reset does, for a state machine that is told of a
// format by other means. Like a command it needs equal directories on all
// nodes: one that comes from another cluster must be emptied by Reset first.
func (d *Directory) Clear() {
	defer d.watch.wake()
	d.lock()
	defer d.unlock()
	d.state.Load().clear()
}

// skippedTokens are left out by Skip: more than any cluster commits between the
// last entry that its survivors have and its end.
const skippedTokens = 1 << 32

// Skip lets the tokens go on far above those that commits may have given that
// are lost with their voters: a replica that survived may hold blocks with their
// stamps, and the next coordinator's must be newer.
func (d *Directory) Skip() {
	d.lock()
	defer d.unlock()
	d.state.Load().lastToken += skippedTokens
}

// Reset empties the directory, counters and index included, as New made it: for
// a node that leaves its cluster.
func (d *Directory) Reset() {
	defer d.watch.wake()
	d.lock()
	defer d.unlock()
	d.replace(newState())
	d.applied.Store(0)
}

func (s *state) clear() {
	s.layers.clear()
	s.families.clear()
	clear(s.names)
	clear(s.vids)
	clear(s.absorbing)
	clear(s.coded)
	clear(s.coding)
	s.changes.restart()
	s.used = new(vidSet)
	s.trashKeep = 0
}
