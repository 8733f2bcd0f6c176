package directory

import (
	"maps"
	"time"
)

// SetAttr sets or deletes an attribute of a working VDI, or of a snapshot.
// The error wraps
// ErrExists if Exclusive is set and the attribute exists, and ErrNoAttr if
// Delete is set and it does not.
type SetAttr struct {
	Time      time.Time `json:"time"`
	Name      string    `json:"name"`
	Snapshot  string    `json:"snapshot,omitempty"` // tag or decimal id; empty: the working VDI
	Key       string    `json:"key"`
	Value     []byte    `json:"value,omitempty"`
	Exclusive bool      `json:"exclusive,omitempty"`
	Delete    bool      `json:"delete,omitempty"`
}

func (c *SetAttr) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if c.Snapshot != "" {
		if err := checkRef(c.Snapshot); err != nil {
			return err
		}
	}
	if c.Delete && (c.Exclusive || len(c.Value) > 0) {
		return invalid("attribute %q: deletion takes neither a value nor exclusivity", c.Key)
	}
	return checkAttr(c.Key, c.Value)
}

func (c *SetAttr) apply(s *state) (any, error) {
	if c.Snapshot != "" {
		return nil, c.onSnapshot(s)
	}
	r, err := s.working(c.Name)
	if err != nil {
		return nil, err
	}
	attrs, bytes, err := c.change(r.attrs, r.attrBytes)
	if err != nil {
		return nil, err
	}
	r.attrs, r.attrBytes = attrs, bytes
	return nil, nil
}

// change is what the attributes are after the command; the old map stays as it
// is.
func (c *SetAttr) change(attrs map[string][]byte, bytes int) (map[string][]byte, int, error) {
	old, found := attrs[c.Key]
	switch {
	case c.Delete && !found:
		return nil, 0, noAttr(c.Name, c.Key)
	case c.Exclusive && found:
		return nil, 0, exists("attribute %q of VDI %q", c.Key, c.Name)
	}
	next := maps.Clone(attrs)
	if found {
		bytes -= len(c.Key) + len(old)
		delete(next, c.Key)
	}
	if c.Delete {
		return next, bytes, nil
	}
	bytes += len(c.Key) + len(c.Value)
	if len(next) == MaxAttrs || bytes > MaxAttrBytes {
		return nil, 0, invalid("attributes of VDI %q: at most %d, and %d bytes together; delete some", c.Name, MaxAttrs, MaxAttrBytes)
	}
	if next == nil {
		next = make(map[string][]byte)
	}
	next[c.Key] = c.Value
	return next, bytes, nil
}

func (c *SetAttr) onSnapshot(s *state) error {
	r, snap, err := s.snapshot(c.Name, c.Snapshot)
	if err != nil {
		return err
	}
	var old map[string][]byte
	if snap.Attrs != nil {
		old = *snap.Attrs
	}
	attrs, _, err := c.change(old, attrBytes(old))
	if err != nil {
		return err
	}
	e := *snap
	if e.Attrs = nil; len(attrs) > 0 {
		e.Attrs = &attrs
	}
	i, _ := r.find(e.SnapID)
	r.snaps[i] = &e
	s.vids[e.VID] = holder{rec: r, snap: &e}
	if e.Tag != "" {
		r.tags[e.Tag] = &e
	}
	return nil
}

// attrBytes is the length of keys and values together.
func attrBytes(attrs map[string][]byte) (n int) {
	for key, value := range attrs {
		n += len(key) + len(value)
	}
	return n
}

// checkAttrs refuses attributes that SetAttr would not have made.
func checkAttrs(name string, attrs map[string][]byte) error {
	for key, value := range attrs {
		if err := checkAttr(key, value); err != nil {
			return err
		}
	}
	if n := attrBytes(attrs); len(attrs) > MaxAttrs || n > MaxAttrBytes {
		return invalid("VDI %q has %d attributes of %d bytes", name, len(attrs), n)
	}
	return nil
}
