package rpc

import (
	"encoding/binary"
	"math"
)

// UUID is as long as libvirt has it.
type UUID [16]byte

// Encoder appends XDR values. The zero value is empty and ready.
type Encoder struct{ b []byte }

// Bytes is what was encoded.
func (e *Encoder) Bytes() []byte { return e.b }

// Len is the number of bytes encoded so far.
func (e *Encoder) Len() int { return len(e.b) }

// Uint32 appends an unsigned int.
func (e *Encoder) Uint32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }

// Int32 appends an int or enum.
func (e *Encoder) Int32(v int32) { e.Uint32(uint32(v)) }

// Uint64 appends an unsigned hyper.
func (e *Encoder) Uint64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

// Bool appends an int of 0 or 1.
func (e *Encoder) Bool(v bool) {
	if v {
		e.Uint32(1)
		return
	}
	e.Uint32(0)
}

// UUID appends 16 bytes.
func (e *Encoder) UUID(u UUID) { e.b = append(e.b, u[:]...) }

// Raw appends values that were encoded elsewhere.
func (e *Encoder) Raw(b []byte) { e.b = append(e.b, b...) }

// String appends a string that is not NULL.
func (e *Encoder) String(s string) {
	e.Uint32(uint32(len(s)))
	e.b = append(e.b, s...)
	e.pad(len(s))
}

// Opaque appends bytes of variable length.
func (e *Encoder) Opaque(p []byte) {
	e.Uint32(uint32(len(p)))
	e.b = append(e.b, p...)
	e.pad(len(p))
}

// OptString appends a string that may be NULL.
func (e *Encoder) OptString(s *string) {
	e.Bool(s != nil)
	if s != nil {
		e.String(*s)
	}
}

// pad fills up to a multiple of four.
func (e *Encoder) pad(n int) {
	for ; n%4 != 0; n++ {
		e.b = append(e.b, 0)
	}
}

// ParamType is the type of a typed parameter.
type ParamType int32

// The types of typed parameters; Value has the Go type named.
const (
	ParamInt    ParamType = 1 // int32
	ParamUint   ParamType = 2 // uint32
	ParamLong   ParamType = 3 // int64
	ParamUlong  ParamType = 4 // uint64
	ParamDouble ParamType = 5 // float64
	ParamBool   ParamType = 6 // bool
	ParamString ParamType = 7 // string
)

// Param is a typed parameter: a name and a value of the Go type that belongs to
// one of the ParamTypes.
type Param struct {
	Field string
	Value any
}

// Params appends a list of typed parameters. It panics on a value of a Go type
// that no ParamType has.
func (e *Encoder) Params(list []Param) {
	e.Uint32(uint32(len(list)))
	for _, p := range list {
		e.String(p.Field)
		e.param(p.Value)
	}
}

func (e *Encoder) param(v any) {
	switch v := v.(type) {
	case int32:
		e.Int32(int32(ParamInt))
		e.Int32(v)
	case uint32:
		e.Int32(int32(ParamUint))
		e.Uint32(v)
	case int64:
		e.Int32(int32(ParamLong))
		e.Uint64(uint64(v))
	case uint64:
		e.Int32(int32(ParamUlong))
		e.Uint64(v)
	case float64:
		e.Int32(int32(ParamDouble))
		e.Uint64(math.Float64bits(v))
	case bool:
		e.Int32(int32(ParamBool))
		e.Bool(v)
	case string:
		e.Int32(int32(ParamString))
		e.String(v)
	default:
		panic("rpc: typed parameter of a Go type without a wire type")
	}
}
