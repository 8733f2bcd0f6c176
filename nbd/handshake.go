package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// drainFactor times MaxOptionBytes is the longest option that is read and
// refused; a longer one ends the connection.
const drainFactor = 16

// agreement is what a handshake ends in.
type agreement struct {
	name       string
	dev        Device
	structured bool
	allocation bool // base:allocation was selected for this export
}

// handshake is the first phase of a connection. It runs in one goroutine.
type handshake struct {
	cfg   *Config
	nc    net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	admit func() bool // takes a place among the attached connections

	deadline   time.Time
	noZeroes   bool
	structured bool
	selected   string // export for which base:allocation was selected
	allocation bool
	held       *heldDevice
}

// heldDevice was opened for one option and is kept for the next: clients ask
// about an export and then attach to it.
type heldDevice struct {
	name string
	dev  Device
}

// run talks until the client attaches, leaves, or has used up its limits.
func (h *handshake) run(ctx context.Context) (_ agreement, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, h.release())
		}
	}()
	h.extend(h.cfg.HandshakeTimeout)
	if err := h.greet(); err != nil {
		return agreement{}, err
	}
	for range h.cfg.MaxOptions {
		opt, err := h.next()
		if err != nil {
			return agreement{}, err
		}
		agreed, err := h.answer(ctx, opt)
		if err = errors.Join(err, h.w.Flush()); err != nil {
			return agreement{}, err
		}
		if agreed != nil {
			h.held = nil // it is the session's now
			h.nc.SetDeadline(time.Time{})
			return *agreed, nil
		}
	}
	return agreement{}, fmt.Errorf("%w: more than %d options", errBroken, h.cfg.MaxOptions)
}

// extend gives the handshake until so long from now.
func (h *handshake) extend(d time.Duration) {
	h.deadline = time.Now().Add(d)
	h.nc.SetDeadline(h.deadline)
}

// greet exchanges magics and flags. Clients that do not claim to know the fixed
// newstyle are let in: all that matters is what they send.
func (h *handshake) greet() error {
	var b [18]byte
	binary.BigEndian.PutUint64(b[0:], magicServer)
	binary.BigEndian.PutUint64(b[8:], magicOption)
	binary.BigEndian.PutUint16(b[16:], flagFixedNewstyle|flagNoZeroes)
	if _, err := h.nc.Write(b[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(h.r, b[:4]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:4])
	if unknown := flags &^ uint32(flagFixedNewstyle|flagNoZeroes); unknown != 0 {
		return fmt.Errorf("%w: unknown client flags %#x", errBroken, unknown)
	}
	h.noZeroes = flags&uint32(flagNoZeroes) != 0
	return nil
}

// next reads options until one is within the limits.
func (h *handshake) next() (option, error) {
	for {
		var b [optionHeaderSize]byte
		if _, err := io.ReadFull(h.r, b[:]); err != nil {
			return option{}, err
		}
		if m := binary.BigEndian.Uint64(b[:]); m != magicOption {
			return option{}, fmt.Errorf("%w: option magic is %#x", errBroken, m)
		}
		id, length := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
		if int64(length) <= int64(h.cfg.MaxOptionBytes) {
			return h.payload(id, length)
		}
		if err := h.drain(id, length); err != nil {
			return option{}, err
		}
	}
}

// payload reads the rest of an option.
func (h *handshake) payload(id, length uint32) (option, error) {
	if id == optGo && length == 0 {
		p, err := h.unframed()
		return option{id, p}, err
	}
	p := make([]byte, length)
	_, err := io.ReadFull(h.r, p)
	return option{id, p}, err
}

// drain reads and refuses an option that is too long, or ends the connection
// where that would be too much, or where no refusal exists.
func (h *handshake) drain(id, length uint32) error {
	if id == optExportName || int64(length) > drainFactor*int64(h.cfg.MaxOptionBytes) {
		return fmt.Errorf("%w: option %d has %d bytes", errBroken, id, length)
	}
	if _, err := io.CopyN(io.Discard, h.r, int64(length)); err != nil {
		return err
	}
	err := h.refuse(id, repErrTooBig, fmt.Sprintf("option has %d bytes, at most %d are taken",
		length, h.cfg.MaxOptionBytes))
	return errors.Join(err, h.w.Flush())
}

// unframedGrace is how long the payload of a GO that announced none may take.
const unframedGrace = time.Second

// unframed reads the payload of a GO whose header says that it has none. The
// client of pojntfx/go-nbd v0.3.2 sends it so. No correct GO is empty, so the
// price is a late refusal to clients that are broken in another way.
func (h *handshake) unframed() ([]byte, error) {
	h.nc.SetReadDeadline(earlier(h.deadline, time.Now().Add(unframedGrace)))
	defer h.nc.SetReadDeadline(h.deadline)
	head, err := h.r.Peek(4)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head)
	if length > maxString {
		return nil, nil // the next option's magic, or nonsense
	}
	p := make([]byte, 4+int(length)+2)
	if _, err := io.ReadFull(h.r, p); err != nil {
		return nil, err
	}
	kinds := make([]byte, 2*int(binary.BigEndian.Uint16(p[4+length:])))
	_, err = io.ReadFull(h.r, kinds)
	return append(p, kinds...), err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// reply writes one reply to an option:
//
//	0      8       12     16      20
//	| magic | option | type | length | payload |
func (h *handshake) reply(opt, typ uint32, payload []byte) error {
	var b [20]byte
	binary.BigEndian.PutUint64(b[0:], magicReply)
	binary.BigEndian.PutUint32(b[8:], opt)
	binary.BigEndian.PutUint32(b[12:], typ)
	binary.BigEndian.PutUint32(b[16:], uint32(len(payload)))
	h.w.Write(b[:])
	_, err := h.w.Write(payload) // a bufio.Writer remembers its first error
	return err
}

// refuse replies with an error and says why.
func (h *handshake) refuse(opt, typ uint32, why string) error {
	return h.reply(opt, typ, []byte(clip(why)))
}

// bounded calls Exports with its own time limit, which does not count for the
// handshake, and gives up early when the client hangs up.
func (h *handshake) bounded(ctx context.Context, call func(ctx context.Context) error) error {
	began := time.Now()
	left := h.deadline.Sub(began)
	ctx, cancel := context.WithTimeout(ctx, h.cfg.OpenTimeout)
	defer cancel()
	h.nc.SetReadDeadline(time.Time{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if _, err := h.r.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel()
		}
	}()
	err := call(ctx)
	h.nc.SetReadDeadline(began) // long past: wakes the watcher
	<-watched
	h.extend(left)
	return err
}

// open attaches to an export, or keeps to the one that is open already.
func (h *handshake) open(ctx context.Context, name string) (Device, error) {
	if h.held != nil && h.held.name == name {
		return h.held.dev, nil
	}
	if err := h.release(); err != nil {
		h.cfg.Log.Warn("nbd: detach failed", "err", err)
	}
	err := h.bounded(ctx, func(ctx context.Context) error {
		dev, err := h.cfg.Exports.Open(ctx, name, Info{Local: h.nc.LocalAddr(), Remote: h.nc.RemoteAddr()})
		if err == nil {
			h.held = &heldDevice{name, dev}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open export %q: %w", name, err)
	}
	return h.held.dev, nil
}

// release detaches from what was opened.
func (h *handshake) release() error {
	if h.held == nil {
		return nil
	}
	held := h.held
	h.held = nil
	if err := held.dev.Close(); err != nil {
		return fmt.Errorf("detach from export %q: %w", held.name, err)
	}
	return nil
}
