package storage

import (
	"bytes"
	"context"
	"io"

	"sheepdog/libvirtpool/rpc"
)

// Sink takes the data of a download, in order. Data is not kept.
type Sink interface {
	Data(p []byte) error
	Hole(n uint64) error
}

// Download is a read of a volume that was checked and can begin.
type Download struct {
	d           *Driver
	vdi         string
	off, length uint64
}

// Download prepares a read of length bytes (0: all) from off, as far as there are so
// many.
func (d *Driver) Download(ctx context.Context, pool, name string, off, length uint64) (*Download, error) {
	v, err := d.Volume(ctx, pool, name)
	if err != nil {
		return nil, err
	}
	if off > v.VDI.Size {
		return nil, rpc.Errorf(rpc.CodeInvalidArg, "offset %d is beyond the end of volume '%s' at %d", off, name, v.VDI.Size)
	}
	if left := v.VDI.Size - off; length == 0 || length > left {
		length = left
	}
	return &Download{d: d, vdi: v.VDI.Name, off: off, length: length}, nil
}

// Run sends everything as data.
func (r *Download) Run(ctx context.Context, s Sink) error {
	return r.run(ctx, &packer{sink: s, piece: rpc.MaxStreamData})
}

// RunSparse sends ranges of zeros as holes.
func (r *Download) RunSparse(ctx context.Context, s Sink) error {
	return r.run(ctx, &packer{sink: s, piece: sparsePiece, sparse: true})
}

func (r *Download) run(ctx context.Context, p *packer) error {
	if r.length == 0 {
		return nil
	}
	if err := r.d.store.Read(ctx, r.vdi, r.off, r.length, p); err != nil {
		return failure(err, "read volume "+r.vdi)
	}
	return p.flush()
}

// sparsePiece is the granularity at which holes are told from data.
const sparsePiece = 64 << 10

// packer makes pieces of equal size out of what is written to it.
type packer struct {
	sink   Sink
	piece  int
	sparse bool
	buf    []byte
	hole   uint64 // bytes of zeros not sent yet
}

var _ io.Writer = (*packer)(nil)

func (p *packer) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if len(p.buf) == 0 && len(b) >= p.piece {
			if err := p.send(b[:p.piece]); err != nil {
				return 0, err
			}
			b = b[p.piece:]
			continue
		}
		take := min(p.piece-len(p.buf), len(b))
		p.buf, b = append(p.buf, b[:take]...), b[take:]
		if len(p.buf) == p.piece {
			if err := p.send(p.buf); err != nil {
				return 0, err
			}
			p.buf = p.buf[:0]
		}
	}
	return n, nil
}

func (p *packer) send(b []byte) error {
	if p.sparse && allZero(b) {
		p.hole += uint64(len(b))
		return nil
	}
	if err := p.sendHole(); err != nil {
		return err
	}
	return p.sink.Data(b)
}

func (p *packer) sendHole() error {
	n := p.hole
	if p.hole = 0; n == 0 {
		return nil
	}
	return p.sink.Hole(n)
}

// flush sends what is left.
func (p *packer) flush() error {
	if len(p.buf) > 0 {
		if err := p.send(p.buf); err != nil {
			return err
		}
		p.buf = nil
	}
	return p.sendHole()
}

func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:])
}
