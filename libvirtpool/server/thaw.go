package server

import (
	"context"
	"sync"
	"time"

	"sheepdog/internal/pause"
	"sheepdog/libvirtpool/client"
	"sheepdog/libvirtpool/rpc"
)

// bounds are times that tests shorten.
type bounds struct{ freeze, thaw, again time.Duration }

// held is a guest that is, or may come to be, frozen or paused for a snapshot: its
// agent, or libvirtd, did not answer, and does what it was told when it comes to it,
// long after the snapshot was given up.
type held struct {
	dom  domain
	uri  string
	free rpc.Procedure // thaws or resumes it
	args []byte
}

// maxHeld is how many such guests are remembered.
const maxHeld = 256

// letGoLater has a guest freed when libvirtd or its agent answers again.
func (s *Server) letGoLater(guest held) {
	select {
	case s.held <- guest:
	default:
		s.log.Error("a guest may stay frozen or paused: too many others do not answer", "domain", guest.dom.name)
	}
}

// ThawLate frees guests that could not be thawed or resumed in time, until ctx ends.
func (s *Server) ThawLate(ctx context.Context) {
	var tries sync.WaitGroup
	defer tries.Wait()
	for {
		select {
		case guest := <-s.held:
			tries.Go(func() { s.letGoUntil(ctx, guest) })
		case <-ctx.Done():
			return
		}
	}
}

// letGoUntil tries until the guest is free or does not run any more.
func (s *Server) letGoUntil(ctx context.Context, guest held) {
	ctx, cancel := context.WithTimeout(ctx, thawPatience)
	defer cancel()
	for pause.For(ctx, s.bounds.again) == nil {
		err := s.letGo(ctx, guest)
		if err == nil {
			s.log.Info("a guest that did not answer goes on", "domain", guest.dom.name)
			return
		}
		switch rpc.AsError(err).Code {
		case rpc.CodeNoDomain, rpc.CodeInvalid:
			return // it does not run, or is not paused any more
		}
		s.log.Warn("a guest may be frozen or paused, and does not answer", "domain", guest.dom.name, "err", err)
	}
	if ctx.Err() != nil {
		s.log.Error("a guest may stay frozen or paused: virsh domfsthaw, or virsh resume, lets it go on", "domain", guest.dom.name)
	}
}

// letGo has a connection of its own: the client that held the guest up is gone.
func (s *Server) letGo(ctx context.Context, guest held) error {
	ctx, cancel := context.WithTimeout(ctx, s.bounds.thaw)
	defer cancel()
	c, err := client.Dial(ctx, s.cfg.Upstream, guest.uri)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Call(ctx, guest.free, guest.args)
	return err
}
