package server

import (
	"context"
	"sync"
	"time"

	"sheepdog/libvirtpool/client"
	"sheepdog/libvirtpool/rpc"
)

// bounds are times that tests shorten.
type bounds struct{ freeze, thaw, again time.Duration }

// frozen is a guest that may be, or may come to be, frozen: its agent did not
// answer, and does what it was told when it comes to it, long after the snapshot
// was given up.
type frozen struct {
	dom domain
	uri string
}

// maxFrozen is how many such guests are remembered.
const maxFrozen = 256

// thawLater has a guest thawed when its agent answers again.
func (s *Server) thawLater(dom domain, uri string) {
	select {
	case s.frozen <- frozen{dom, uri}:
	default:
		s.log.Error("a guest may stay frozen: too many others do not answer", "domain", dom.name)
	}
}

// ThawLate thaws guests that could not be thawed in time, until ctx ends.
func (s *Server) ThawLate(ctx context.Context) {
	var tries sync.WaitGroup
	defer tries.Wait()
	for {
		select {
		case f := <-s.frozen:
			tries.Go(func() { s.thawUntil(ctx, f) })
		case <-ctx.Done():
			return
		}
	}
}

// thawUntil tries until the guest is thawed or does not run any more.
func (s *Server) thawUntil(ctx context.Context, f frozen) {
	ctx, cancel := context.WithTimeout(ctx, thawPatience)
	defer cancel()
	for pause(ctx, s.bounds.again) {
		err := s.thawOnce(ctx, f)
		if err == nil {
			s.log.Info("a guest that did not answer has been thawed", "domain", f.dom.name)
			return
		}
		switch rpc.AsError(err).Code {
		case rpc.CodeNoDomain, rpc.CodeInvalid:
			return // it does not run
		}
		s.log.Warn("a guest may be frozen, and does not answer", "domain", f.dom.name, "err", err)
	}
	if ctx.Err() != nil {
		s.log.Error("a guest may stay frozen: virsh domfsthaw thaws it", "domain", f.dom.name)
	}
}

// thawOnce has a connection of its own: the client that froze the guest is gone.
func (s *Server) thawOnce(ctx context.Context, f frozen) error {
	ctx, cancel := context.WithTimeout(ctx, s.bounds.thaw)
	defer cancel()
	c, err := client.Dial(ctx, s.cfg.Upstream, f.uri)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Call(ctx, rpc.DomainFSThaw, mountpoints(f.dom))
	return err
}
