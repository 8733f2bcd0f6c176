package vdi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Methods of the control calls of group snapshots.
const (
	methodHold   = "vdi.hold"
	methodResume = "vdi.resume"
)

// holdLimit is how long a coordinator holds its writes for a group. One that is
// not resumed by then ends: its successor's token makes a late commit fail.
const holdLimit = 5 * time.Second

// errNotHeld is of a group that was given up. It is not tried again by itself: guests
// would wait for one try after the other.
var errNotHeld = fmt.Errorf("the writes of all VDIs of the group could not be held within %v; try again: %w", holdLimit, sheepdog.ErrBusy)

// holdID names one hold: a resume that comes late, or after its own hold failed,
// must not end that of another group.
type holdID = sheepdog.Origin

// SnapshotGroup snapshots several VDIs in one moment, under the guests' I/O: all
// their coordinators hold their writes before the one commit. (rule 13) It is tried
// again when the outcome of a try is not known; with tags it is taken once. The error
// wraps ErrBusy if the writes could not be held together in time.
func (m *Manager) SnapshotGroup(ctx context.Context, members []directory.Snapshot) (directory.SnappedGroup, error) {
	cmd := directory.SnapshotGroup{Time: m.now(), Members: slices.Clone(members)}
	for i := range cmd.Members {
		cmd.Members[i].Once = cmd.Members[i].Tag != ""
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		changed := m.opt.Directory.Changed()
		out, err := m.tryGroup(ctx, cmd)
		if err == nil || errors.Is(err, errNotHeld) || !rerouted(err) {
			return out, err
		}
		if perr := m.pause(ctx, changed, pause); perr != nil {
			return out, errors.Join(perr, err)
		}
	}
}

// tryGroup holds the members in the order of their families, so that two groups
// cannot wait for each other, commits, and resumes them.
func (m *Manager) tryGroup(ctx context.Context, cmd directory.SnapshotGroup) (out directory.SnappedGroup, err error) {
	order := make([]int, len(cmd.Members))
	for i := range cmd.Members {
		v, err := m.opt.Directory.Lookup(cmd.Members[i].Name)
		if err != nil {
			return out, err
		}
		cmd.Members[i].IfFamily, order[i] = v.Family, i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(cmd.Members[a].IfFamily, cmd.Members[b].IfFamily) })
	deadline, cancel := context.WithTimeoutCause(ctx, holdLimit, errNotHeld)
	defer cancel()
	for n, i := range order {
		if n > 0 && cmd.Members[i].IfFamily == cmd.Members[order[n-1]].IfFamily {
			return out, fmt.Errorf("VDI %s is in the group twice: %w", cmd.Members[i].Name, sheepdog.ErrInvalid)
		}
		token, resume, herr := m.holdMember(deadline, cmd.Members[i].IfFamily)
		if resume != nil {
			defer resume(context.WithoutCancel(ctx)) // also after a failure: it may hold
		}
		if herr != nil && context.Cause(deadline) == errNotHeld {
			return out, fmt.Errorf("VDI %s: %w (%v)", cmd.Members[i].Name, errNotHeld, herr)
		}
		if herr != nil {
			return out, herr
		}
		cmd.Members[i].IfToken = token
	}
	return commit[directory.SnappedGroup](deadline, m, &cmd)
}

// holdMember stops the writes of a family that may be written, and returns the
// token of whoever holds them. The caller must call resume unless it is nil,
// also with an error.
func (m *Manager) holdMember(ctx context.Context, id sheepdog.FamilyID) (token sheepdog.Token, resume func(context.Context), err error) {
	f, ok := m.opt.Directory.Family(id)
	if !ok {
		return 0, nil, fmt.Errorf("VDI was deleted: %w", sheepdog.ErrNotFound)
	}
	if f.Coordinator.IsZero() {
		// Nobody writes; whoever begins to has another token.
		return f.Token, nil, nil
	}
	hold := holdID{Gateway: m.opt.Incarnation, Request: m.numbers.Add(1)}
	c, other, token, err := m.route(ctx, id)
	switch {
	case err != nil:
		return 0, nil, err
	case c != nil:
		return c.scope.Token, func(ctx context.Context) { m.resume(ctx, c, hold) }, m.hold(ctx, c, hold)
	case token == 0:
		return 0, nil, errMoved
	}
	to := target{node: other, family: id, token: token}
	_, err = m.callCoordinator(ctx, to, methodHold, hold)
	return token, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, holdLimit)
		defer cancel()
		if _, err := m.callCoordinator(ctx, to, methodResume, hold); err != nil {
			// The snapshot is what it is, and the hold ends by itself.
			m.opt.Logger.Warn("a VDI goes on when its hold ends", "family", id, "err", err)
		}
	}, err
}

// held is a hold that nobody has resumed; limit ends it.
type held struct {
	id    holdID
	limit *time.Timer
}

// hold shuts c's gate until resume, or until holdLimit, when c ends.
func (m *Manager) hold(ctx context.Context, c *coordinator, id holdID) error {
	if err := c.quiesce(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = held{id, time.AfterFunc(holdLimit, func() {
		c.lose(errMoved)
		c.gate.open()
	})}
	return nil
}

// resume ends the hold of that name, if there is one, and lets c's writes go on in
// the layer that the directory says.
func (m *Manager) resume(ctx context.Context, c *coordinator, id holdID) {
	c.mu.Lock()
	if c.held.id != id || c.held.limit == nil || !c.held.limit.Stop() {
		c.mu.Unlock()
		return // it failed, or the limit was faster
	}
	c.held = held{}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	c.settle(ctx, errMoved) // this node may not have heard of the commit yet
	c.gate.open()
	m.idle(ctx, c.scope.Family)
}
