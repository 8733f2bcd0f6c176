package server

import (
	"context"
	"fmt"
	"time"

	"sheepdog/libvirtpool/client"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// undoTimeout bounds the removal of what a failed copy left.
const undoTimeout = 30 * time.Second

// copyAcross clones a volume between a pool of ours and one of libvirtd's: the
// data are copied, because the two share nothing. It has a connection of its own,
// so that the client's other calls do not wait for the data.
func (c *session) copyAcross(v verb, a args, m *rpc.Message) error {
	if err := c.permit(v); err != nil {
		return c.fail(m.Header, err)
	}
	return c.answer(m.Header, func(ctx context.Context, out *rpc.Encoder) error {
		up, err := c.another(ctx)
		if err != nil {
			return err
		}
		defer up.Close()
		if c.srv.cfg.Driver.Knows(a.pool) {
			return c.copyIn(ctx, up, a, out)
		}
		return c.copyOut(ctx, up, a, out)
	})
}

// another opens one more connection to libvirtd, as the same client.
func (c *session) another(ctx context.Context) (*client.Conn, error) {
	up, err := client.Dial(ctx, c.srv.cfg.Upstream, c.uri)
	if err != nil {
		return nil, err
	}
	var id rpc.Encoder
	id.Params(c.peer.identity())
	id.Uint32(0)
	if err := up.Identify(ctx, id.Bytes()); err != nil {
		up.Close()
		return nil, err
	}
	return up, nil
}

// volumeRef encodes a reference to a volume of libvirtd's, and more arguments.
func volumeRef(pool, name string, more func(*rpc.Encoder)) []byte {
	var e rpc.Encoder
	e.String(pool)
	e.String(name)
	e.String("") // the key: libvirtd goes by the names
	if more != nil {
		more(&e)
	}
	return e.Bytes()
}

// span encodes the arguments of an upload or download of everything.
func span(flags uint32) func(*rpc.Encoder) {
	return func(e *rpc.Encoder) {
		e.Uint64(0)
		e.Uint64(0)
		e.Uint32(flags)
	}
}

// copyIn copies a volume of libvirtd's into a new one of ours.
func (c *session) copyIn(ctx context.Context, up *client.Conn, a args, out *rpc.Encoder) error {
	capacity, err := theirVolume(ctx, up, a.fromPool, a.fromVolume)
	if err != nil {
		return err
	}
	v, err := c.srv.cfg.Driver.FilledVolume(ctx, a.pool, a.text, capacity, func(u *storage.Upload) error {
		return up.Download(ctx, rpc.VolumeDownload, volumeRef(a.fromPool, a.fromVolume, span(0)), uploadWriter{ctx, u})
	})
	if err == nil {
		encodeVolume(out, v)
	}
	return err
}

// uploadWriter is an upload as an io.Writer for the time of one call.
type uploadWriter struct {
	ctx context.Context
	u   *storage.Upload
}

func (w uploadWriter) Write(p []byte) (int, error) { return len(p), w.u.Write(w.ctx, p) }

// theirVolume is the capacity of a volume of libvirtd's, which must hold bytes
// that we understand.
func theirVolume(ctx context.Context, up *client.Conn, pool, name string) (capacity uint64, err error) {
	reply, err := up.Call(ctx, rpc.VolumeXML, volumeRef(pool, name, func(e *rpc.Encoder) { e.Uint32(0) }))
	if err != nil {
		return 0, err
	}
	s, err := storage.ParseVolume(rpc.NewDecoder(reply).String())
	if err != nil {
		return 0, err
	}
	if s.Format != "raw" && s.Format != "qcow2" && s.Format != "" {
		return 0, rpc.Errorf(rpc.CodeUnsupported, "volume '%s' has the format %s: only raw and qcow2 volumes can be cloned into the cluster", name, s.Format)
	}
	return s.Capacity, nil
}

// copyOut copies a volume of ours into a new one of libvirtd's.
func (c *session) copyOut(ctx context.Context, up *client.Conn, a args, out *rpc.Encoder) (err error) {
	s, err := storage.ParseVolume(a.text)
	if err != nil {
		return err
	}
	if s.Format != "raw" && s.Format != "" {
		return rpc.Errorf(rpc.CodeUnsupported, "a clone out of the cluster is raw, not %s: convert it with qemu-img", s.Format)
	}
	d := c.srv.cfg.Driver
	source, err := d.Volume(ctx, a.fromPool, a.fromVolume)
	if err != nil {
		return err
	}
	r, err := d.Download(ctx, a.fromPool, a.fromVolume, 0, 0)
	if err != nil {
		return err
	}
	reply, err := c.makeTheirs(ctx, up, a)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.undo(ctx, s.Name, func(ctx context.Context) error { return c.deleteTheirs(ctx, a.pool, s.Name) })
		}
	}()
	if s.Capacity < source.VDI.Size {
		grow := volumeRef(a.pool, s.Name, func(e *rpc.Encoder) { e.Uint64(source.VDI.Size); e.Uint32(0) })
		if _, err := up.Call(ctx, rpc.VolumeResize, grow); err != nil {
			return err
		}
	}
	err = up.Upload(ctx, rpc.VolumeUpload, volumeRef(a.pool, s.Name, span(streamSparse)), func(to *client.Sink) error { return r.RunSparse(ctx, to) })
	if err == nil {
		out.Raw(reply)
	}
	return err
}

func (c *session) makeTheirs(ctx context.Context, up *client.Conn, a args) ([]byte, error) {
	var e rpc.Encoder
	e.String(a.pool)
	e.UUID(a.uuid)
	e.String(a.text)
	e.Uint32(0)
	return up.Call(ctx, rpc.VolumeCreateXML, e.Bytes())
}

// deleteTheirs has a connection of its own: the one of the copy may be broken.
func (c *session) deleteTheirs(ctx context.Context, pool, name string) error {
	up, err := c.another(ctx)
	if err != nil {
		return err
	}
	defer up.Close()
	_, err = up.Call(ctx, rpc.VolumeDelete, volumeRef(pool, name, func(e *rpc.Encoder) { e.Uint32(0) }))
	return err
}

// undo deletes a volume although ctx may have ended.
func (c *session) undo(ctx context.Context, name string, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := f(ctx); err != nil {
		c.srv.log.Error("a volume of a copy that failed is left", "volume", name, "err", fmt.Errorf("delete it: %w", err))
	}
}
