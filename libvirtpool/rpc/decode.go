package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMalformed is returned when a message is not what its procedure asks for.
var ErrMalformed = errors.New("malformed message")

// Decoder takes XDR values off the front of a message. After the first error it
// returns zero values, and Err tells of that error: callers decode all arguments
// and look once.
type Decoder struct {
	b   []byte
	err error
}

// NewDecoder decodes b, which must not change meanwhile.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// Err is the first error; it wraps ErrMalformed.
func (d *Decoder) Err() error { return d.err }

// Rest is what was not decoded yet.
func (d *Decoder) Rest() []byte { return d.b }

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// take is the next n bytes, or nil.
func (d *Decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > len(d.b) {
		d.fail("%d bytes are left of %d", len(d.b), n)
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

// Uint32 takes an unsigned int.
func (d *Decoder) Uint32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

// Int32 takes an int or enum.
func (d *Decoder) Int32() int32 { return int32(d.Uint32()) }

// Uint64 takes an unsigned hyper.
func (d *Decoder) Uint64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// Bool takes an int; everything but 0 is true.
func (d *Decoder) Bool() bool { return d.Uint32() != 0 }

// UUID takes 16 bytes.
func (d *Decoder) UUID() (u UUID) {
	copy(u[:], d.take(len(u)))
	return u
}

// counted takes a length of at most limit, that many bytes, and the padding.
func (d *Decoder) counted(limit uint32) []byte {
	n := d.Uint32()
	if n > limit {
		d.fail("a value of %d bytes, at most %d are allowed", n, limit)
		return nil
	}
	p := d.take(int(n))
	d.take((4 - int(n)%4) % 4)
	if d.err != nil {
		return nil
	}
	return p
}

// String takes a string that is not NULL.
func (d *Decoder) String() string { return string(d.counted(MaxString)) }

// Opaque takes bytes of variable length; they alias the message.
func (d *Decoder) Opaque() []byte { return d.counted(MaxCookie) }

// OptString takes a string that may be NULL.
func (d *Decoder) OptString() *string {
	if !d.present() {
		return nil
	}
	s := d.String()
	return &s
}

// present takes the flag of an optional value: 0 or 1.
func (d *Decoder) present() bool {
	n := d.Uint32()
	if n > 1 {
		d.fail("a flag of value %d", n)
	}
	return d.err == nil && n == 1
}

// Count takes the length of a list of at most limit elements of at least size
// bytes each, so that a short message cannot announce a long list.
func (d *Decoder) Count(limit, size int) int {
	n := d.Uint32()
	if d.err == nil && (n > uint32(limit) || int(n)*size > len(d.b)) {
		d.fail("a list of %d elements", n)
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// Params takes a list of typed parameters.
func (d *Decoder) Params() []Param {
	var list []Param
	for range d.Count(MaxParams, 12) {
		p := Param{Field: d.String()}
		p.Value = d.param()
		list = append(list, p)
	}
	return list
}

func (d *Decoder) param() any {
	switch t := ParamType(d.Int32()); t {
	case ParamInt:
		return d.Int32()
	case ParamUint:
		return d.Uint32()
	case ParamLong:
		return int64(d.Uint64())
	case ParamUlong:
		return d.Uint64()
	case ParamDouble:
		return math.Float64frombits(d.Uint64())
	case ParamBool:
		return d.Bool()
	case ParamString:
		return d.String()
	default:
		d.fail("a typed parameter of type %d", t)
		return int32(0)
	}
}
