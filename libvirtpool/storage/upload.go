package storage

import (
	"cmp"
	"context"
	"io"

	"sheepdog/libvirtpool/qcow2"
	"sheepdog/libvirtpool/rpc"
)

// Upload is data on their way into a volume, in order. Its methods must not be
// called concurrently. It must be ended by Finish or Abort.
type Upload struct {
	d      *Driver
	volume Volume
	off    uint64
	left   uint64 // bytes that may still come, if limited
	limit  bool
	head   []byte // what came before the format was known
	sink   uploadSink
}

// uploadSink is where the data of an upload go.
type uploadSink interface {
	io.Writer
	// finish returns when everything is durable in the volume.
	finish(ctx context.Context) error
	abort()
}

// Upload begins an upload of length bytes (0: as many as come) at off. Data at
// offset 0 that begin like a qcow2 image are taken as one and converted to raw
// when they are complete; the volume grows if the image is larger.
func (d *Driver) Upload(ctx context.Context, pool, name string, off, length uint64) (*Upload, error) {
	v, err := d.Volume(ctx, pool, name)
	if err != nil {
		return nil, err
	}
	if off > v.VDI.Size {
		return nil, rpc.Errorf(rpc.CodeInvalidArg, "offset %d is beyond the end of volume '%s' at %d", off, name, v.VDI.Size)
	}
	return &Upload{d: d, volume: v, off: off, left: length, limit: length != 0}, nil
}

// Write takes the next data. It blocks while the cluster is slower.
func (u *Upload) Write(ctx context.Context, p []byte) error {
	if u.limit && uint64(len(p)) > u.left {
		return u.overflow(ctx, p[:u.left])
	}
	u.left -= min(u.left, uint64(len(p)))
	if u.sink == nil {
		u.head = append(u.head, p...)
		if len(u.head) < len(qcow2.Magic) {
			return nil
		}
		p = u.head
		if err := u.open(ctx); err != nil {
			return err
		}
	}
	_, err := u.sink.Write(p)
	return failure(err, "write volume "+u.volume.Name)
}

// overflow ends an upload of more data than were announced. Those that were are in the
// volume, as with libvirt's own pools if its writer is quick, and the upload fails.
func (u *Upload) overflow(ctx context.Context, last []byte) error {
	u.limit = false
	err := u.Write(ctx, last)
	if err == nil {
		err = u.Finish(ctx)
		u.sink = nil // Abort has nothing to do any more
	}
	if err != nil {
		return err
	}
	return rpc.Errorf(rpc.CodeInvalidArg, "more data than the upload of volume '%s' announced", u.volume.Name)
}

// open chooses where the data go, by how they begin.
func (u *Upload) open(ctx context.Context) error {
	if u.off == 0 && qcow2.Is(u.head) {
		c, err := newConversion(u.d, u.volume)
		if err != nil {
			return err // and there is no sink: Abort has nothing to do
		}
		u.sink = c
	} else {
		u.sink = newDirect(ctx, u.d.store, u.volume.VDI.Name, u.off)
	}
	u.head = nil
	return nil
}

// holePiece is how many zeros are written at a time.
const holePiece = 1 << 20

// Hole is Write of n zeros.
func (u *Upload) Hole(ctx context.Context, n uint64) error {
	if u.limit && n > u.left {
		return rpc.Errorf(rpc.CodeInvalidArg, "a hole beyond what the upload of volume '%s' announced", u.volume.Name)
	}
	if n > u.volume.VDI.Size && u.sink == nil {
		return rpc.Errorf(rpc.CodeInvalidArg, "a hole of %d bytes is beyond the end of volume '%s' at %d", n, u.volume.Name, u.volume.VDI.Size)
	}
	buf := make([]byte, min(n, holePiece))
	for n > 0 {
		piece := min(n, holePiece)
		if err := u.Write(ctx, buf[:piece]); err != nil {
			return err
		}
		n -= piece
	}
	return nil
}

// Finish returns when the data are durable in the volume.
func (u *Upload) Finish(ctx context.Context) error {
	if u.sink == nil {
		if len(u.head) == 0 {
			return nil
		}
		head := u.head
		if err := u.open(ctx); err != nil {
			return err
		}
		if _, err := u.sink.Write(head); err != nil {
			u.sink.abort()
			return failure(err, "write volume "+u.volume.Name)
		}
	}
	return failure(u.sink.finish(ctx), "write volume "+u.volume.Name)
}

// Abort gives up; what was written stays.
func (u *Upload) Abort() {
	if u.sink != nil {
		u.sink.abort()
	}
}

// direct writes through to the volume.
type direct struct {
	w    *io.PipeWriter
	done chan error
}

func newDirect(ctx context.Context, data Data, vdi string, off uint64) *direct {
	r, w := io.Pipe()
	s := &direct{w: w, done: make(chan error, 1)}
	go func() { // ends when w is closed, and finish and abort wait for it
		err := data.Write(ctx, vdi, off, r)
		r.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
		s.done <- err
	}()
	return s
}

func (s *direct) Write(p []byte) (int, error) { return s.w.Write(p) }

func (s *direct) finish(context.Context) error {
	s.w.Close()
	return <-s.done
}

func (s *direct) abort() {
	s.w.CloseWithError(context.Canceled)
	<-s.done
}
