package world

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"sheepdog"
	"sheepdog/api"
)

// clone is what an administrator knows of a clone.
type clone struct {
	name   string
	flat   bool // it needs its base no more
	policy sheepdog.Policy
}

func (a *admin) clone(ctx context.Context, s *Snap) {
	if !a.l.Known(s) {
		a.look(ctx, s)
		return
	}
	a.made++
	name := fmt.Sprintf("%s-clone%d", a.name, a.made)
	a.l.Clone(name, s)
	_, err := a.node.Backend().CloneVDI(ctx, &api.CloneRequest{Source: a.name, Snapshot: api.Selector(s.Tag), Name: name})
	a.w.Tracef("clone %s of %s at node %d: %v", name, s.Tag, a.host.Number, err)
	if a.answer("clone", err) {
		a.l.Made(name)
		a.clones = append(a.clones, &clone{name: name, policy: sheepdog.Policy{Copies: uint8(a.w.opt.Copies)}})
	}
}

// work has a guest use a clone, now and then while its data are being moved.
func (a *admin) work(ctx context.Context, c *clone) {
	var wg sync.WaitGroup
	switch {
	case a.rng.IntN(3) > 0 || a.w.opt.Coded.Parity > 0:
	case c.flat:
		wg.Go(func() { a.alter(ctx, c) })
	default:
		wg.Go(func() { a.flatten(ctx, c) })
	}
	a.guest(ctx, c.name)
	wg.Wait()
}

func (a *admin) flatten(ctx context.Context, c *clone) {
	_, err := a.node.Backend().FlattenVDI(ctx, &api.FlattenRequest{Name: c.name}, func(api.CopyProgress) error { return nil })
	a.w.Tracef("flatten %s at node %d: %v", c.name, a.host.Number, err)
	if c.flat = a.answer("flatten", err); c.flat {
		a.l.Count(func(c *Counts) { c.Flattened++ })
	}
}

// alter gives a clone that is flat 2 or 3 copies, whichever it has not. What was
// broken off goes on the next time.
func (a *admin) alter(ctx context.Context, c *clone) {
	to := sheepdog.Policy{Copies: 5 - c.policy.Copies}
	_, err := a.node.Backend().AlterVDI(ctx, &api.AlterRequest{Name: c.name, Copies: to}, func(api.CopyProgress) error { return nil })
	a.w.Tracef("alter %s to %s copies at node %d: %v", c.name, to, a.host.Number, err)
	if errors.Is(err, sheepdog.ErrExists) {
		err = nil // the time before it was done without an answer
	}
	if a.answer("alter", err) {
		c.policy = to
		a.l.Count(func(c *Counts) { c.Altered++ })
	}
}

// guest does a few calls on a clone.
func (a *admin) guest(ctx context.Context, name string) {
	g := a.client
	g.name, g.gates = name, nil
	g.host, g.node, g.vol = nil, nil, nil
	for range 5 {
		if g.attach() {
			g.step()
		}
	}
	g.detach()
}

func (a *admin) deleteClone(ctx context.Context, i int) {
	name := a.clones[i].name
	a.clones = slices.Delete(a.clones, i, i+1)
	a.l.Delete(name)
	err := a.node.Backend().DeleteVDI(ctx, &api.DeleteRequest{Name: name})
	a.w.Tracef("delete %s at node %d: %v", name, a.host.Number, err)
	if a.answer("delete", err) {
		a.l.DeletedVDI(name)
	}
}
