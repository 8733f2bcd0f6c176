package nbd

import (
	"context"
	"encoding/binary"
	"fmt"
)

// A request as the client sends it, before the payload of a WRITE:
//
//	0       4       6         8        16       24       28
//	| magic | flags | command | cookie | offset | length |
const headerSize = 28

// header is a decoded request.
type header struct {
	flags  uint16
	cmd    command
	cookie uint64 // the client's; comes back in the reply
	off    uint64
	length uint32
}

// parseHeader decodes a request; it returns false if the magic is wrong.
func parseHeader(b []byte) (header, bool) {
	_ = b[headerSize-1]
	return header{
		flags:  binary.BigEndian.Uint16(b[4:]),
		cmd:    command(binary.BigEndian.Uint16(b[6:])),
		cookie: binary.BigEndian.Uint64(b[8:]),
		off:    binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, binary.BigEndian.Uint32(b) == magicRequest
}

func (c command) String() string {
	names := [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write zeroes", "block status"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// writes tells whether a command changes the device.
func (c command) writes() bool {
	return c == cmdWrite || c == cmdTrim || c == cmdWriteZeroes
}

// terms are what requests are judged by.
type terms struct {
	size       uint64
	readOnly   bool
	maxRequest uint32
	structured bool
	allocation bool
}

// check returns why a request cannot be served, or nil.
func (h header) check(t terms) error {
	if bad := h.flags &^ h.allowedFlags(t); bad != 0 {
		return fmt.Errorf("%v: flags %#x are not allowed: %w", h.cmd, bad, ErrInvalid)
	}
	switch h.cmd {
	case cmdFlush:
		if h.off != 0 || h.length != 0 {
			return fmt.Errorf("flush: offset and length must be 0: %w", ErrInvalid)
		}
		return nil
	case cmdRead, cmdWrite, cmdTrim, cmdCache, cmdWriteZeroes, cmdBlockStatus:
	default:
		return fmt.Errorf("%v: not known: %w", h.cmd, ErrInvalid)
	}
	if h.cmd.writes() && t.readOnly {
		return fmt.Errorf("%v: %w", h.cmd, ErrReadOnly)
	}
	if h.cmd == cmdBlockStatus && (!t.allocation || h.length == 0) {
		return fmt.Errorf("block status: needs %s and a length: %w", allocationContext, ErrInvalid)
	}
	if (h.cmd == cmdRead || h.cmd == cmdWrite) && h.length > t.maxRequest {
		return fmt.Errorf("%v: %d bytes, at most %d are taken: %w", h.cmd, h.length, t.maxRequest, h.tooLarge())
	}
	return h.checkRange(t.size)
}

// allowedFlags are those that are documented for the command. FUA is for all.
func (h header) allowedFlags(t terms) uint16 {
	switch {
	case h.cmd == cmdRead && t.structured:
		return cmdFlagFUA | cmdFlagDF
	case h.cmd == cmdWriteZeroes:
		return cmdFlagFUA | cmdFlagNoHole | cmdFlagFastZero
	case h.cmd == cmdBlockStatus:
		return cmdFlagFUA | cmdFlagReqOne
	}
	return cmdFlagFUA
}

// tooLarge is the error for a request above the limit.
func (h header) tooLarge() error {
	if h.flags&cmdFlagDF != 0 {
		return ErrOverflow
	}
	return ErrInvalid
}

// checkRange refuses what reaches past the end: with ENOSPC where space is
// wanted, else with EINVAL.
func (h header) checkRange(size uint64) error {
	if h.off <= size && uint64(h.length) <= size-h.off {
		return nil
	}
	err := ErrInvalid
	if h.cmd == cmdWrite || h.cmd == cmdWriteZeroes {
		err = ErrNoSpace
	}
	return fmt.Errorf("%v: %d bytes at %d reach past the end at %d: %w", h.cmd, h.length, h.off, size, err)
}

// maxExtents bounds a BLOCK_STATUS reply. It and its request are charged as
// extentBytes.
const (
	maxExtents  = 1024
	extentBytes = maxExtents * 16
)

// memory is what a valid request takes while in flight.
func (h header) memory() int64 {
	switch h.cmd {
	case cmdRead, cmdWrite:
		return bufferCap(int(h.length))
	case cmdBlockStatus:
		return extentBytes
	}
	return 0
}

// request is one request in flight: from the session that reads it to the
// writer that has sent the reply. It is pooled.
type request struct {
	header
	session *session
	charge  charge
	buf     *[]byte // pooled, behind data
	data    []byte  // payload of READ and WRITE
	extents []Extent
	err     error
	start   func()      // q.run, kept so that a goroutine costs no closure
	end     func(error) // q.ended, likewise
}

// ended is told by a Starter of a write that it had begun. It does not wait for
// the client.
func (q *request) ended(err error) {
	s := q.session
	defer s.running.Done()
	if s.cuts(err) {
		s.release(q)
		return
	}
	q.err = err
	s.out.complete(q)
}

// run is the goroutine of a request.
func (q *request) run() {
	s := q.session
	defer s.running.Done()
	if err := q.perform(s.ctx); s.cuts(err) {
		s.release(q)
	} else {
		q.err = err
		s.out.send(q)
	}
}

// perform runs a valid request on its device.
func (q *request) perform(ctx context.Context) error {
	dev, fua := q.session.dev, q.flags&cmdFlagFUA != 0
	if q.cmd == cmdFlush {
		return dev.Flush(ctx)
	}
	if q.length == 0 {
		return nil
	}
	off, n := q.off, uint64(q.length)
	switch q.cmd {
	case cmdRead:
		return dev.ReadAt(ctx, q.data, off)
	case cmdWrite:
		return dev.WriteAt(ctx, q.data, off, fua)
	case cmdTrim:
		return dev.Trim(ctx, off, n, fua)
	case cmdCache:
		return dev.Cache(ctx, off, n)
	case cmdWriteZeroes:
		return dev.WriteZeroes(ctx, off, n, q.zeroFlags())
	}
	return q.status(ctx)
}

func (q *request) zeroFlags() ZeroFlags {
	var f ZeroFlags
	for _, m := range []struct {
		wire uint16
		flag ZeroFlags
	}{{cmdFlagFUA, ZeroFUA}, {cmdFlagNoHole, NoHole}, {cmdFlagFastZero, FastZero}} {
		if q.flags&m.wire != 0 {
			f |= m.flag
		}
	}
	return f
}

// status runs BLOCK_STATUS.
func (q *request) status(ctx context.Context) error {
	limit := maxExtents
	if q.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	found, err := q.session.dev.Status(ctx, q.off, uint64(q.length), limit)
	q.extents = tidyExtents(found, uint64(q.length), limit)
	return err
}

// tidyExtents makes of a device's answer what the protocol allows: at least one
// and at most limit extents, none empty, neighbours differing, not beyond n. No
// answer becomes "may hold anything", which is always true.
func tidyExtents(found []Extent, n uint64, limit int) []Extent {
	var tidy []Extent
	for _, e := range found {
		e.Length = min(e.Length, n)
		if e.Length == 0 {
			continue
		}
		if last := len(tidy) - 1; last >= 0 && tidy[last].Flags == e.Flags {
			tidy[last].Length += e.Length
		} else if len(tidy) < limit {
			tidy = append(tidy, e)
		} else {
			break
		}
		n -= e.Length
	}
	if len(tidy) == 0 {
		return []Extent{{Length: n}}
	}
	return tidy
}
