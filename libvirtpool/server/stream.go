package server

import (
	"context"
	"errors"
	"fmt"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// streamSparse is VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM and its counterpart.
const streamSparse = 1

// transfer is what a stream does, in a goroutine of its own, until ctx ends.
type transfer func(ctx context.Context, s *stream) error

// stream is one of our streams: messages of the client wait in queue until the
// transfer takes them.
type stream struct {
	c      *session
	head   rpc.Header // of its messages
	queue  chan *rpc.Message
	cancel context.CancelFunc
	done   chan struct{} // closed when the transfer has ended
}

// errAborted ends a transfer that the client gave up.
var errAborted = errors.New("the client aborted the stream")

// beginStream answers the call that starts a stream, and runs it.
func (c *session) beginStream(ctx context.Context, v verb, m *rpc.Message) error {
	a, err := c.checked(ctx, v, m)
	if err != nil {
		return c.fail(m.Header, err)
	}
	t, err := v.begin(ctx, c.srv.cfg.Driver, a)
	if err != nil {
		return c.fail(m.Header, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{c: c, head: m.Header, queue: make(chan *rpc.Message, streamQueue), cancel: cancel, done: make(chan struct{})}
	s.head.Type = rpc.Stream
	if err := c.addStream(s); err != nil {
		cancel()
		return c.fail(m.Header, err)
	}
	c.group.Go(func() error { return s.run(ctx, t) })
	return nil
}

func (c *session) addStream(s *stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) >= maxStreams {
		return rpc.Errorf(rpc.CodeFailed, "more than %d streams at once", maxStreams)
	}
	if _, ok := c.streams[s.head.Serial]; ok {
		return rpc.Errorf(rpc.CodeRPC, "a stream of serial %d exists already", s.head.Serial)
	}
	c.streams[s.head.Serial] = s
	return nil
}

// run replies to the call, does the transfer and tells of its end.
func (s *stream) run(ctx context.Context, t transfer) error {
	defer s.cancel()
	defer close(s.done)
	err := s.c.reply(s.head, nil)
	if err == nil {
		err = t(ctx, s)
	}
	s.c.dropStream(s)
	switch {
	case s.c.ctx.Err() != nil:
		return nil // the connection is gone
	case err == nil || ctx.Err() != nil: // aborted by the client, whatever that broke
		return s.send(rpc.OK, nil)
	}
	s.c.srv.log.Warn("a stream failed", "procedure", s.head.Procedure, "err", err)
	return s.send(rpc.Failed, rpc.AsError(err).Encode())
}

func (c *session) dropStream(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, s.head.Serial)
}

// send sends a message of the stream.
func (s *stream) send(status rpc.Status, payload []byte) error {
	h := s.head
	h.Status = status
	return s.c.client.send(rpc.NewMessage(h, payload))
}

// streamMessage hands a message to its stream. It waits while that one's queue is
// full, so that a client cannot be faster than the cluster. What belongs to none
// of ours is libvirtd's, or late, and late ones are ignored.
func (c *session) streamMessage(m *rpc.Message) error {
	c.mu.Lock()
	s := c.streams[m.Serial]
	c.mu.Unlock()
	if s == nil {
		if c.up != nil {
			return c.up.send(m)
		}
		return nil
	}
	if m.Status == rpc.Failed {
		s.cancel()
	}
	select {
	case s.queue <- m:
	case <-s.done:
	case <-c.ctx.Done():
	}
	return nil
}

// receive is the next message of the client; errAborted when it gives up.
func (s *stream) receive(ctx context.Context) (*rpc.Message, error) {
	select {
	case m := <-s.queue:
		if m.Status == rpc.Failed {
			return nil, errAborted
		}
		return m, nil
	case <-ctx.Done():
		return nil, errAborted
	}
}

func beginUpload(ctx context.Context, d *storage.Driver, a args) (transfer, error) {
	// A check before the stream exists; the upload itself must not end with the
	// call.
	if _, err := d.Upload(ctx, a.pool, a.volume, a.off, a.length); err != nil {
		return nil, err
	}
	return func(ctx context.Context, s *stream) error {
		u, err := d.Upload(ctx, a.pool, a.volume, a.off, a.length)
		if err != nil {
			return err
		}
		if err := s.receiveAll(ctx, u); err != nil {
			u.Abort()
			return err
		}
		return u.Finish(ctx)
	}, nil
}

// receiveAll feeds an upload until the client says that it is complete.
func (s *stream) receiveAll(ctx context.Context, u *storage.Upload) error {
	for {
		m, err := s.receive(ctx)
		if err != nil {
			return err
		}
		switch {
		case m.Type == rpc.StreamHole:
			d := rpc.NewDecoder(m.Payload())
			n := d.Uint64()
			d.Uint32() // flags
			if err = d.Err(); err == nil {
				err = u.Hole(ctx, n)
			}
		case m.Status == rpc.Continue:
			err = u.Write(ctx, m.Payload())
		case m.Status == rpc.OK:
			return nil
		default:
			err = fmt.Errorf("%w: status %d in a stream", rpc.ErrMalformed, m.Status)
		}
		if ctx.Err() != nil {
			return errAborted
		}
		if err != nil {
			return err
		}
	}
}

func beginDownload(ctx context.Context, d *storage.Driver, a args) (transfer, error) {
	r, err := d.Download(ctx, a.pool, a.volume, a.off, a.length)
	if err != nil {
		return nil, err
	}
	run := r.Run
	if a.flags&streamSparse != 0 {
		run = r.RunSparse
	}
	return func(ctx context.Context, s *stream) error {
		stop := make(chan error, 1)
		ctx, cancel := context.WithCancel(ctx)
		s.c.group.Go(func() error { // hears the client while data are sent
			_, err := s.receive(ctx)
			cancel()
			stop <- err
			return nil
		})
		err := run(ctx, downloadSink{s})
		if err == nil {
			err = s.send(rpc.Continue, nil) // the end of the data
		}
		if err != nil && ctx.Err() == nil {
			cancel()
			<-stop
			return err
		}
		return <-stop // the client ends the stream, before or after the data do
	}, nil
}

// downloadSink sends what is downloaded to the client.
type downloadSink struct{ s *stream }

func (d downloadSink) Data(p []byte) error { return d.s.send(rpc.Continue, p) }

func (d downloadSink) Hole(n uint64) error {
	var out rpc.Encoder
	out.Uint64(n)
	out.Uint32(0)
	h := d.s.head
	h.Type, h.Status = rpc.StreamHole, rpc.Continue
	return d.s.c.client.send(rpc.NewMessage(h, out.Bytes()))
}
