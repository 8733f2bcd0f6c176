package directory

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"sheepdog"
)

// Lose marks objects of a coded layer of which too few strips are left, and whose
// other strips an operator has given up: reads that need those fail from then on,
// where they waited before. Strips that come back after all are read all the same.
// The error wraps ErrConflict if the layer is not coded, or not completely.
type Lose struct {
	Time    time.Time        `json:"time"`
	Layer   sheepdog.LayerID `json:"layer"`
	Objects IndexList        `json:"objects"`
	// Left is how many objects of the layer are not lost: so many a reader must
	// find, to know that it has found all.
	Left uint64 `json:"left"`
}

func (c *Lose) validate() error {
	if c.Layer == 0 || len(c.Objects) == 0 {
		return invalid("a loss needs a layer and objects")
	}
	return nil
}

func (c *Lose) apply(s *state) (any, error) {
	n := s.layers.get(c.Layer)
	if n == nil || n.layer.Load() == nil || !n.layer.Load().complete() {
		return nil, conflict("layer %d is not a complete coded one", c.Layer)
	}
	s.change(n, func(l *Layer) { l.Lost, l.Left = l.Lost.Union(c.Objects), c.Left })
	return nil, nil
}

// IndexList is an ascending list of indexes of objects. As text it is the base64
// of their distances as uvarints.
type IndexList []sheepdog.Index

// Has reports whether an index is in the list.
func (l IndexList) Has(i sheepdog.Index) bool {
	_, found := slices.BinarySearch(l, i)
	return found
}

// Union is a new list of what is in either; more need not be in order.
func (l IndexList) Union(more IndexList) IndexList {
	all := slices.Concat(l, more)
	slices.Sort(all)
	return slices.Compact(all)
}

// MarshalText encodes an ascending list.
func (l IndexList) MarshalText() ([]byte, error) {
	var b []byte
	next := uint64(0)
	for _, i := range l {
		if uint64(i) < next {
			return nil, invalid("index %d is out of order", i)
		}
		b = binary.AppendUvarint(b, uint64(i)-next)
		next = uint64(i) + 1
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads what MarshalText wrote.
func (l *IndexList) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return invalid("list of indexes: %v", err)
	}
	out := IndexList{}
	for next := uint64(0); len(b) > 0; {
		d, n := binary.Uvarint(b)
		if n <= 0 || next > math.MaxUint32 || d > math.MaxUint32-next {
			return invalid("list of indexes goes beyond what objects there can be")
		}
		next += d
		out = append(out, sheepdog.Index(next))
		next, b = next+1, b[n:]
	}
	*l = out
	return nil
}
