package directory

import (
	"time"
)

// MaxGroup is the most VDIs of one SnapshotGroup.
const MaxGroup = 64

// SnapshotGroup snapshots several VDIs in one moment: all, or none of them. Each
// member must satisfy what Snapshot asks of it. The result is SnappedGroup.
type SnapshotGroup struct {
	Time    time.Time  `json:"time"`
	Members []Snapshot `json:"members"`
}

// SnappedGroup tells of the snapshots, in the order of the members.
type SnappedGroup struct {
	Snapped []Snapped `json:"snapped"`
}

func (c *SnapshotGroup) validate() error {
	if n := len(c.Members); n == 0 || n > MaxGroup {
		return invalid("group of %d VDIs: want 1 to %d", n, MaxGroup)
	}
	for i := range c.Members {
		if err := c.Members[i].validate(); err != nil {
			return err
		}
		if c.Members[i].Clone != nil {
			return invalid("a group takes snapshots; it does not clone")
		}
	}
	return nil
}

// again is the result of the very same command, if it was applied before.
func (c *SnapshotGroup) again(s *state) *SnappedGroup {
	out := &SnappedGroup{}
	for i := range c.Members {
		m := c.Members[i]
		m.Time = c.Time
		r, err := m.target(s)
		if err != nil {
			return nil
		}
		one := m.again(r)
		if one == nil {
			return nil
		}
		out.Snapped = append(out.Snapped, *one)
	}
	return out
}

func (c *SnapshotGroup) apply(s *state) (any, error) {
	if done := c.again(s); done != nil {
		return done, nil
	}
	seen := make(map[*record]bool, len(c.Members))
	for i := range c.Members {
		m := &c.Members[i]
		m.Time = c.Time
		r, err := m.target(s)
		if err == nil {
			err = m.check(s, r)
		}
		switch {
		case err != nil:
			return nil, err
		case seen[r]:
			return nil, invalid("VDI %q is in the group twice", r.name)
		}
		seen[r] = true
	}
	if len(s.vids)+len(c.Members) >= vidSpace {
		return nil, noIDs() // with room for all, none of them can fail any more
	}
	out := &SnappedGroup{}
	for i := range c.Members {
		one, err := c.Members[i].apply(s)
		if err != nil {
			panic("a checked snapshot failed: " + err.Error())
		}
		out.Snapped = append(out.Snapped, *one.(*Snapped))
	}
	return out, nil
}
