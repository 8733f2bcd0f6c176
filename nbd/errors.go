package nbd

import (
	"context"
	"errors"
	"syscall"
)

// Errors that Exports and Devices return to choose what a client is told. They
// may be wrapped; the text of the whole error is sent along where the protocol
// has room for it.
var (
	// ErrUnknownExport is returned by Exports.Open when no export has the name.
	ErrUnknownExport = errors.New("no such export")
	// ErrPolicy is returned by Exports when the client may not have what it asks.
	ErrPolicy = errors.New("refused by policy")
	// ErrShutdown is returned by Exports and Devices when the server is stopping
	// or cannot serve now, and the client may try again later.
	ErrShutdown = errors.New("server is shutting down")
	// ErrReadOnly is returned by a Device for a write that it does not take.
	ErrReadOnly = errors.New("export is read-only")
	// ErrInvalid is returned for a request that makes no sense.
	ErrInvalid = errors.New("invalid request")
	// ErrNoSpace is returned when there is no room for a write.
	ErrNoSpace = errors.New("no space left")
	// ErrNotSupported is returned by a Device for what it cannot do, above all by
	// WriteZeroes with FastZero when it would be no faster than writing.
	ErrNotSupported = errors.New("not supported")
	// ErrOverflow is returned when an answer does not fit into one reply.
	ErrOverflow = errors.New("reply would be too large")
	// ErrNoMemory is returned when there is no memory for a request.
	ErrNoMemory = errors.New("out of memory")
)

// wireErrors is the one table from errors to errno on the wire; the first match
// counts, anything else is EIO.
var wireErrors = []struct {
	err  error
	code uint32
}{
	{ErrReadOnly, wireEPERM}, {ErrPolicy, wireEPERM},
	{ErrInvalid, wireEINVAL},
	{ErrNoSpace, wireENOSPC},
	{ErrNotSupported, wireENOTSUP},
	{ErrOverflow, wireEOVERFLOW},
	{ErrNoMemory, wireENOMEM},
	{ErrShutdown, wireESHUTDOWN}, {context.Canceled, wireESHUTDOWN},
	{syscall.EPERM, wireEPERM}, {syscall.EROFS, wireEPERM},
	{syscall.EINVAL, wireEINVAL},
	{syscall.ENOSPC, wireENOSPC}, {syscall.EDQUOT, wireENOSPC}, {syscall.EFBIG, wireENOSPC},
	{syscall.ENOTSUP, wireENOTSUP},
	{syscall.ENOMEM, wireENOMEM},
	{syscall.EOVERFLOW, wireEOVERFLOW},
	{syscall.ESHUTDOWN, wireESHUTDOWN},
}

// wireErrno is the errno that tells a client of err; 0 for nil.
func wireErrno(err error) uint32 {
	if err == nil {
		return 0
	}
	for _, w := range wireErrors {
		if errors.Is(err, w.err) {
			return w.code
		}
	}
	return wireEIO
}

// openErrors is the one table from errors of Exports to option replies; the
// first match counts, anything else is a refusal with its text.
var openErrors = []struct {
	err error
	rep uint32
}{
	{ErrUnknownExport, repErrUnknown},
	{ErrPolicy, repErrPolicy},
	{ErrInvalid, repErrInvalid},
	{ErrShutdown, repErrShutdown},
	{context.Canceled, repErrShutdown},
	{context.DeadlineExceeded, repErrShutdown},
}

// optionError is the option reply that tells a client of err.
func optionError(err error) uint32 {
	for _, o := range openErrors {
		if errors.Is(err, o.err) {
			return o.rep
		}
	}
	return repErrPolicy
}

// Reasons for which a connection ends.
var (
	errAborted    = errors.New("client ended the handshake")
	errBroken     = errors.New("client broke the protocol")
	errHungUp     = errors.New("client hung up")
	errStalled    = errors.New("client moved no data in time")
	errEvicted    = errors.New("too many handshakes at once")
	errTooMany    = errors.New("too many connections")
	errServerStop = errors.New("server was told to stop")
)
