package directory

import (
	"fmt"
	"sync/atomic"
	"time"

	"sheepdog"
)

// Coordinator is the process that, for now, may order the writes of a family.
// The zero value means none.
type Coordinator struct {
	Node        sheepdog.NodeID      `json:"node"`
	Incarnation sheepdog.Incarnation `json:"incarnation"`
}

// IsZero reports whether there is no coordinator.
func (c Coordinator) IsZero() bool { return c == Coordinator{} }

// Family is a tree of layers with one placement and at most one working VDI.
// It is immutable.
type Family struct {
	ID             sheepdog.FamilyID
	Policy         sheepdog.Policy
	BlockSizeShift uint8
	// Token is of the newest coordinator, also after it released, and rises when
	// its VDI is deleted or rolled back. Zero: there never was one.
	Token       sheepdog.Token
	Coordinator Coordinator
	// Claimed is the token under which clients of one gateway have claimed the VDI for
	// themselves last (a cluster with locks); zero: never. It stays when they have left.
	Claimed sheepdog.Token
	// Working is the working layer. It and the fields below describe the working
	// VDI; they are zero in a family of which only snapshots, or bases of clones,
	// are left.
	Working sheepdog.LayerID
	VID     sheepdog.VID
	Name    string
	Size    uint64 // bytes
}

// familyNode is a family and what is counted about it.
type familyNode struct {
	family atomic.Pointer[Family]
	// Guarded by Directory.mu.
	layers  int
	retired spans // ids of its deleted VDIs and snapshots
}

func (n *familyNode) update(change func(*Family)) {
	f := *n.family.Load()
	change(&f)
	n.family.Store(&f)
}

// addFamily makes a family with the next id; it needs a layer at once.
func (s *state) addFamily(policy sheepdog.Policy, shift uint8) sheepdog.FamilyID {
	s.lastFamily++
	n := &familyNode{}
	n.family.Store(&Family{ID: s.lastFamily, Policy: policy, BlockSizeShift: shift})
	s.families.put(s.lastFamily, n)
	return s.lastFamily
}

// publish shows the working VDI in its family.
func (s *state) publish(v *VDI) {
	s.families.get(v.Family).update(func(f *Family) { f.show(v) })
}

// republish does so and fences the coordinator in the same step.
func (s *state) republish(v *VDI) {
	s.lastToken++
	s.families.get(v.Family).update(func(f *Family) {
		f.Token, f.Coordinator = s.lastToken, Coordinator{}
		f.show(v)
	})
}

// vacate shows that a family has no working VDI any more, and fences.
func (s *state) vacate(id sheepdog.FamilyID) { s.republish(&VDI{Family: id}) }

func (f *Family) show(v *VDI) {
	f.Working, f.VID, f.Name, f.Size = v.Layer, v.VID, v.Name, v.Size
}

func (s *state) family(id sheepdog.FamilyID) (*familyNode, error) {
	n := s.families.get(id)
	if n == nil || n.family.Load().Working == 0 {
		return nil, fmt.Errorf("%w: family %d has no working VDI", ErrNoVDI, id)
	}
	return n, nil
}

// Acquire appoints a coordinator. It succeeds only if the family's token is
// still IfToken, the one that the proposer saw; otherwise the error wraps
// ErrConflict. The result is Acquired. When a predecessor may be replaced is
// for the proposer to know.
type Acquire struct {
	Time        time.Time            `json:"time"`
	Family      sheepdog.FamilyID    `json:"family"`
	Node        sheepdog.NodeID      `json:"node"`
	Incarnation sheepdog.Incarnation `json:"incarnation"`
	IfToken     sheepdog.Token       `json:"ifToken"`
}

// Acquired tells the token of the new coordinator.
type Acquired struct {
	Token sheepdog.Token `json:"token"`
}

func (c *Acquire) validate() error {
	if c.Node == 0 || c.Incarnation == 0 {
		return invalid("coordinator needs a node and an incarnation")
	}
	return nil
}

func (c *Acquire) apply(s *state) (any, error) {
	n, err := s.family(c.Family)
	if err != nil {
		return nil, err
	}
	if f := n.family.Load(); f.Token != c.IfToken {
		return nil, conflict("token of family %d is %d, not %d", c.Family, f.Token, c.IfToken)
	}
	s.lastToken++
	n.update(func(f *Family) {
		f.Token = s.lastToken
		f.Coordinator = Coordinator{Node: c.Node, Incarnation: c.Incarnation}
	})
	return &Acquired{Token: s.lastToken}, nil
}

// Release ends the office of a coordinator that has drained and flushed. The
// token stays, so that the next Acquire can name it. Releasing twice is no
// error; after a successor was appointed, or the VDI deleted or rolled back, the
// error wraps ErrFenced.
type Release struct {
	Time        time.Time            `json:"time"`
	Family      sheepdog.FamilyID    `json:"family"`
	Node        sheepdog.NodeID      `json:"node"`
	Incarnation sheepdog.Incarnation `json:"incarnation"`
	Token       sheepdog.Token       `json:"token"`
}

func (c *Release) validate() error { return nil }

func (c *Release) apply(s *state) (any, error) {
	n := s.families.get(c.Family)
	if n == nil {
		return nil, fenced(&Family{ID: c.Family}, c.Token)
	}
	f := n.family.Load()
	if f.Token != c.Token {
		return nil, fenced(f, c.Token)
	}
	who := Coordinator{Node: c.Node, Incarnation: c.Incarnation}
	if !f.Coordinator.IsZero() && f.Coordinator != who {
		return nil, conflict("coordinator of family %d with token %d is node %s, not %s",
			f.ID, f.Token, f.Coordinator.Node, c.Node)
	}
	n.update(func(f *Family) { f.Coordinator = Coordinator{} })
	return nil, nil
}

// Claim notes that clients of the coordinator with Token have the VDI for themselves
// from now on. The error wraps ErrFenced if the coordinator is another one by now.
type Claim struct {
	Time   time.Time         `json:"time"`
	Family sheepdog.FamilyID `json:"family"`
	Token  sheepdog.Token    `json:"token"`
}

func (c *Claim) validate() error { return nil }

func (c *Claim) apply(s *state) (any, error) {
	n, err := s.family(c.Family)
	if err != nil {
		return nil, err
	}
	if f := n.family.Load(); f.Coordinator.IsZero() || f.Token != c.Token {
		return nil, fenced(f, c.Token)
	}
	n.update(func(f *Family) { f.Claimed = c.Token })
	return nil, nil
}

// MarkWritten promises that the layer may hold blocks from now on. A
// coordinator needs it before its first write to a layer that is not Written.
// The error wraps ErrFrozen if the layer is frozen or gone, and ErrFenced if
// Token is not that of the present coordinator.
type MarkWritten struct {
	Time  time.Time        `json:"time"`
	Layer sheepdog.LayerID `json:"layer"`
	Token sheepdog.Token   `json:"token"`
}

func (c *MarkWritten) validate() error { return nil }

func (c *MarkWritten) apply(s *state) (any, error) {
	n := s.layers.get(c.Layer)
	if n == nil || n.layer.Load() == nil || n.layer.Load().Frozen {
		return nil, frozen(c.Layer)
	}
	l := n.layer.Load()
	if f := s.families.get(l.Family).family.Load(); f.Coordinator.IsZero() || f.Token != c.Token {
		return nil, fenced(f, c.Token)
	}
	if !l.Written {
		s.change(n, func(l *Layer) { l.Written = true })
	}
	return nil, nil
}
