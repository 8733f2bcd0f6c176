package vdi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// methodRelease asks the coordinator of a family to give it back.
const methodRelease = "vdi.release"

// SetAttr sets or deletes an attribute of a VDI.
func (m *Manager) SetAttr(ctx context.Context, cmd directory.SetAttr) error {
	cmd.Time = m.now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// Rename gives a VDI and its snapshots another name.
func (m *Manager) Rename(ctx context.Context, name, newName string) error {
	_, err := m.propose(ctx, &directory.Rename{Time: m.now(), Name: name, NewName: newName})
	return err
}

// Unlock takes a VDI from whoever coordinates it: it is drained, flushed and
// given back, so nothing is lost. A client that still writes makes its gateway
// ask for the VDI again. The error wraps ErrConflict if nobody coordinates it.
func (m *Manager) Unlock(ctx context.Context, name string) error {
	asked := false
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		changed := m.opt.Directory.Changed()
		v, err := m.opt.Directory.Lookup(name)
		if err != nil {
			return err
		}
		f, ok := m.opt.Directory.Family(v.Family)
		if ok && f.Coordinator.IsZero() && asked {
			return nil // given back, though whoever had it could not say so
		}
		if !ok || f.Coordinator.IsZero() {
			return fmt.Errorf("VDI %s (vid=%s) is not locked: %w", name, v.VID, sheepdog.ErrConflict)
		}
		asked = true
		err = m.releaseAt(ctx, f)
		if err == nil || !rerouted(err) {
			return err
		}
		if err := m.pause(ctx, changed, pause); err != nil {
			return err
		}
	}
}

// releaseAt has the family given back by its coordinator, or, if that one is no
// member any more, by this node after it has taken over.
func (m *Manager) releaseAt(ctx context.Context, f directory.Family) error {
	holder, ok := m.holder(f)
	if ok && holder.Incarnation != m.opt.Incarnation {
		_, err := m.callCoordinator(ctx, target{node: holder, family: f.ID, token: f.Token}, methodRelease, nil)
		return err
	}
	c, _, _, err := m.route(ctx, f.ID)
	if err != nil {
		return err
	}
	if c == nil {
		return errMoved
	}
	return m.release(ctx, c)
}

// Claim makes this node the coordinator of the volume's VDI before its first
// request. The error wraps ErrBusy if another node is. Once a client has claimed the
// VDI at another node, the requests of the volume fail, also when that one has left.
func (v *Volume) Claim(ctx context.Context) error {
	if v.layer != 0 {
		return nil
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		changed := v.m.opt.Directory.Changed()
		c, other, _, err := v.m.route(ctx, v.family.Load().id)
		switch {
		case err == nil && c != nil:
			if err = v.claimAt(ctx, c); err == nil {
				return nil
			}
		case err == nil && other.ID != 0:
			return fmt.Errorf("VDI %s is locked by node %s: %w", v.name, other.Addr, sheepdog.ErrBusy)
		}
		if err != nil && !rerouted(err) {
			return err
		}
		if err := v.m.pause(ctx, changed, pause); err != nil {
			return err
		}
	}
}

// claimAt has the directory note the claim, unless this node's clients have the VDI for
// themselves already: then it is theirs.
func (v *Volume) claimAt(ctx context.Context, c *coordinator) error {
	f, id, m := v.family.Load(), c.scope.Family, v.m
	if f.id != id {
		return errMoved
	}
	noted, _ := m.opt.Directory.Family(id)
	m.mu.Lock()
	claim, shared := f.claim, f.claims > 0 && f.claim == noted.Claimed
	m.mu.Unlock()
	if !shared {
		claim = c.scope.Token
		if _, err := m.propose(ctx, &directory.Claim{Time: m.now(), Family: id, Token: claim}); err != nil {
			return err
		}
	}
	v.claim.Store(uint64(claim))
	m.mu.Lock()
	f.claim = claim
	m.mu.Unlock()
	v.become(claimNone, claimHeld)
	return nil
}

// claimPassed reports whether clients of another node have had the VDI for themselves
// since the volume claimed it. While c is in service nobody else can.
func (v *Volume) claimPassed(c *coordinator) bool {
	if !v.claimIs(claimHeld) {
		return false
	}
	f, ok := v.m.opt.Directory.Family(c.scope.Family)
	return ok && uint64(f.Claimed) != v.claim.Load()
}

// claim is what a volume has of its VDI.
type claim int32

const (
	claimNone claim = iota // it never asked
	claimHeld
	claimLost // to a volume of another node
)

// errClaimLost is of a volume that stood still, was cut off or unlocked while a
// client of another node claimed its VDI. To go on would be to write beside that
// one, or after it from what the volume's client knows, which is of before.
var errClaimLost = errors.New("the VDI was locked by another node meanwhile; attach again")

// become changes the claim of a volume, once, and counts it where it is held.
func (v *Volume) become(from, to claim) {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if !v.claimed.CompareAndSwap(int32(from), int32(to)) {
		return
	}
	if to == claimHeld {
		v.family.Load().claims++
	} else {
		v.family.Load().claims--
	}
}

func (v *Volume) claimIs(c claim) bool { return claim(v.claimed.Load()) == c }

// methodYield asks the coordinator of a family to give it back, unless a client
// has claimed it there.
const methodYield = "vdi.yield"

// yielded answers methodYield.
type yielded struct {
	Claimed bool `json:"claimed"` // it stays
}

func (m *Manager) yield(ctx context.Context, c *coordinator) (yielded, error) {
	noted, _ := m.opt.Directory.Family(c.scope.Family)
	m.mu.Lock()
	f := m.families[c.scope.Family]
	claimed := f != nil && f.claims > 0 && f.claim == noted.Claimed // else they are over, and do not know it yet
	m.mu.Unlock()
	if claimed {
		return yielded{Claimed: true}, nil
	}
	return yielded{}, m.release(ctx, c)
}

// reclaim gets a VDI that was claimed here back from the node that has it: for a
// command, perhaps. The caller routes again then.
func (v *Volume) reclaim(ctx context.Context, to target) error {
	reply, err := v.m.callCoordinator(ctx, to, methodYield, nil)
	if err != nil {
		return err
	}
	var y yielded
	if err := json.Unmarshal(reply, &y); err != nil {
		return fmt.Errorf("%s: %w", methodYield, err)
	}
	if y.Claimed {
		v.become(claimHeld, claimLost)
		return fmt.Errorf("node %s has %s: %w", to.node.Addr, v.name, errClaimLost)
	}
	return errMoved
}
