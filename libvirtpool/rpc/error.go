package rpc

import (
	"errors"
	"fmt"
)

// Code is a number of virErrorNumber.
type Code int32

// The codes in use here.
const (
	CodeInternal       Code = 1
	CodeNoSupport      Code = 3
	CodeInvalidArg     Code = 8
	CodeFailed         Code = 9
	CodeXML            Code = 27
	CodeDenied         Code = 29
	CodeXMLDetail      Code = 35 // it cannot be parsed at all
	CodeRPC            Code = 39
	CodeNoDomain       Code = 42
	CodeAuth           Code = 45
	CodeNoPool         Code = 49
	CodeNoVolume       Code = 50
	CodeInvalid        Code = 55 // the operation does not fit the state
	CodeConfig         Code = 67
	CodeTimeout        Code = 68
	CodeArgUnsupported Code = 74
	CodeAborted        Code = 78
	CodeUnsupported    Code = 84
	CodeAgent          Code = 86
	CodeBusy           Code = 87
	CodeVolumeExists   Code = 90
)

// Domain says which part of libvirt an error comes from.
type Domain int32

// The domains in use here.
const (
	FromRPC      Domain = 7
	FromQEMU     Domain = 10
	FromStorage  Domain = 18
	FromSnapshot Domain = 35
)

// levelError is VIR_ERR_ERROR.
const levelError = 2

// prefixes are what libvirt itself writes before the text of an error; clients
// match on them.
func prefix(c Code) string {
	switch c {
	case CodeInternal:
		return "internal error: %s"
	case CodeNoSupport:
		return "this function is not supported by the connection driver: %s"
	case CodeInvalidArg:
		return "invalid argument: %s"
	case CodeFailed:
		return "operation failed: %s"
	case CodeXML:
		return "XML error: %s"
	case CodeDenied:
		return "operation forbidden: %s"
	case CodeAuth:
		return "authentication failed: %s"
	case CodeNoPool:
		return "Storage pool not found: %s"
	case CodeNoVolume:
		return "Storage volume not found: %s"
	case CodeInvalid:
		return "Requested operation is not valid: %s"
	case CodeConfig:
		return "unsupported configuration: %s"
	case CodeTimeout:
		return "Timed out during operation: %s"
	case CodeArgUnsupported:
		return "argument unsupported: %s"
	case CodeAborted:
		return "operation aborted: %s"
	case CodeUnsupported:
		return "Operation not supported: %s"
	case CodeAgent:
		return "Guest agent is not responding: %s"
	case CodeBusy:
		return "resource busy: %s"
	case CodeVolumeExists:
		return "storage volume %s exists already"
	}
	return "%s"
}

// Error is an error as clients of libvirt see it.
type Error struct {
	Code   Code
	Domain Domain
	Text   string // without what libvirt writes before it
	whole  string // the message of a decoded error
}

// Errorf makes an error of the storage driver.
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Domain: FromStorage, Text: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.whole != "" {
		return e.whole
	}
	return fmt.Sprintf(prefix(e.Code), e.Text)
}

// AsError is err as it goes over the wire. One that is no Error becomes an
// internal error; a decoding error an RPC error.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, ErrMalformed) {
		return &Error{Code: CodeRPC, Domain: FromRPC, Text: err.Error()}
	}
	return Errorf(CodeInternal, "%v", err)
}

// Encode is the payload of a failed reply.
func (e *Error) Encode() []byte {
	message, format := e.Error(), prefix(e.Code)
	var x Encoder
	x.Int32(int32(e.Code))
	x.Int32(int32(e.Domain))
	x.OptString(&message)
	x.Int32(levelError)
	x.Bool(false) // no domain
	x.OptString(&format)
	x.OptString(&e.Text)
	x.OptString(nil)
	x.Int32(-1)
	x.Int32(-1)
	x.Bool(false) // no network
	return x.Bytes()
}

// DecodeError reads the payload of a failed reply.
func DecodeError(b []byte) *Error {
	d := NewDecoder(b)
	e := &Error{Code: Code(d.Int32()), Domain: Domain(d.Int32())}
	if s := d.OptString(); s != nil {
		e.whole, e.Text = *s, *s
	}
	if d.Err() != nil {
		return &Error{Code: CodeRPC, Domain: FromRPC, Text: "a failed reply without a readable error"}
	}
	return e
}
