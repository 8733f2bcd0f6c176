package server

import (
	"context"
	"errors"

	"sheepdog/libvirtpool/domxml"
	"sheepdog/libvirtpool/rpc"
)

// state is what a domain does, as libvirtd knows. The id in a client's reference says
// what it did when the client looked it up.
type state int32

// The states that make a difference here.
const (
	statePaused state = 3
	stateOff    state = 5
)

func (s state) active() bool { return s != stateOff }

func (c *session) domainState(ctx context.Context, dom domain) (state, error) {
	var e rpc.Encoder
	dom.encode(&e)
	e.Uint32(0) // flags
	reply, err := c.up.call(ctx, rpc.DomainState, e.Bytes())
	if err != nil {
		return 0, err
	}
	d := rpc.NewDecoder(reply)
	return state(d.Int32()), d.Err()
}

// quiesce makes the disks consistent: by the guest agent when it is there, which
// it must be when the client asks for it; otherwise, with several disks, by
// pausing the guest, so that all are of one moment. A guest that is paused writes
// nothing, and stays so. The function returned undoes what was done and must be called.
func (c *session) quiesce(ctx context.Context, r *snapshotRequest) (resume func() error, err error) {
	nothing := func() error { return nil }
	connected, _ := domxml.HasAgent(r.xml)
	asked := r.flags&snapQuiesce != 0
	switch {
	case !r.state.active() || r.state == statePaused && !asked:
		return nothing, nil
	case connected || asked:
		return c.freeze(ctx, r.dom, connected)
	case len(r.disks) > 1:
		return c.suspend(ctx, r.dom)
	}
	return nothing, nil
}

// mountpoints encodes the arguments of freeze and thaw: all file systems.
func mountpoints(dom domain) []byte {
	var e rpc.Encoder
	dom.encode(&e)
	e.Uint32(0) // no list: all
	e.Uint32(0) // flags
	return e.Bytes()
}

// freeze freezes the guest. What a connected agent was told, it may do long after
// it was given up: then it is thawed later.
func (c *session) freeze(ctx context.Context, dom domain, connected bool) (thaw func() error, err error) {
	guest := held{dom: dom, uri: c.uri, free: rpc.DomainFSThaw, args: mountpoints(dom)}
	thaw = func() error {
		err := c.letGo(ctx, guest)
		if err == nil {
			return nil
		}
		if connected {
			c.srv.letGoLater(guest)
		}
		return snapshotFailure(rpc.CodeAgent, "thaw the guest's file systems", err)
	}
	bounded, cancel := context.WithTimeout(ctx, c.srv.bounds.freeze)
	defer cancel()
	if _, err := c.up.call(bounded, rpc.DomainFSFreeze, guest.args); err != nil {
		// Some file systems may be frozen: undo that, whatever it answers.
		if terr := thaw(); terr != nil {
			c.srv.log.Warn("thaw after a failed freeze", "domain", dom.name, "err", terr)
		}
		return nil, snapshotFailure(rpc.CodeAgent, "freeze the guest's file systems", err)
	}
	return thaw, nil
}

// suspend pauses the guest.
func (c *session) suspend(ctx context.Context, dom domain) (resume func() error, err error) {
	var e rpc.Encoder
	dom.encode(&e)
	guest := held{dom: dom, uri: c.uri, free: rpc.DomainResume, args: e.Bytes()}
	resume = func() error {
		err := c.letGo(ctx, guest)
		if err == nil {
			return nil
		}
		c.srv.letGoLater(guest)
		return snapshotFailure(rpc.CodeFailed, "resume the guest", err)
	}
	bounded, cancel := context.WithTimeout(ctx, c.srv.bounds.freeze)
	defer cancel()
	_, err = c.up.call(bounded, rpc.DomainSuspend, guest.args)
	if err == nil {
		return resume, nil
	}
	if bounded.Err() != nil || errors.Is(err, errGone) { // it may be paused, or come to be
		if rerr := resume(); rerr != nil {
			c.srv.log.Warn("resume after a pause without an answer", "domain", dom.name, "err", rerr)
		}
	}
	return nil, snapshotFailure(rpc.CodeFailed, "pause the guest", err)
}

// letGo frees a guest, also when the client is gone, and with it the session's
// connection to libvirtd.
func (c *session) letGo(ctx context.Context, guest held) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.srv.bounds.thaw)
	defer cancel()
	_, err := c.up.call(ctx, guest.free, guest.args)
	var answered *rpc.Error
	if err == nil || errors.As(err, &answered) {
		return err
	}
	return c.srv.letGo(ctx, guest)
}
