package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestValuesRoundTrip(t *testing.T) {
	params := []Param{{"i", int32(-1)}, {"u", uint32(7)}, {"l", int64(-9)}, {"ul", uint64(1 << 60)}, {"d", 1.5}, {"b", true}, {"s", "text"}}
	some := "some"
	var e Encoder
	e.Int32(-5)
	e.Uint64(1<<63 + 1)
	e.Bool(true)
	e.UUID(UUID{15: 9})
	for _, s := range []string{"", "a", "ab", "abc", "abcd", "ä"} {
		e.String(s)
	}
	e.OptString(nil)
	e.OptString(&some)
	e.Opaque([]byte{1, 2, 3})
	e.Params(params)
	if e.Len()%4 != 0 {
		t.Errorf("length %d is no multiple of four", e.Len())
	}
	d := NewDecoder(e.Bytes())
	if n := d.Int32(); n != -5 {
		t.Errorf("int %d", n)
	}
	if n := d.Uint64(); n != 1<<63+1 {
		t.Errorf("hyper %d", n)
	}
	if !d.Bool() || d.UUID() != (UUID{15: 9}) {
		t.Error("bool or UUID")
	}
	for _, want := range []string{"", "a", "ab", "abc", "abcd", "ä"} {
		if s := d.String(); s != want {
			t.Errorf("string %q, want %q", s, want)
		}
	}
	if p := d.OptString(); p != nil {
		t.Errorf("NULL is %q", *p)
	}
	if p := d.OptString(); p == nil || *p != some {
		t.Error("optional string")
	}
	if !bytes.Equal(d.Opaque(), []byte{1, 2, 3}) {
		t.Error("opaque")
	}
	if got := d.Params(); !reflect.DeepEqual(got, params) {
		t.Errorf("parameters %v, want %v", got, params)
	}
	if d.Err() != nil || len(d.Rest()) != 0 {
		t.Errorf("error %v, %d bytes left", d.Err(), len(d.Rest()))
	}
}

// The encoding of RFC 4506 and libvirt's own layout of a string.
func TestEncodingIsXDR(t *testing.T) {
	var e Encoder
	e.String("virsh")
	want := []byte{0, 0, 0, 5, 'v', 'i', 'r', 's', 'h', 0, 0, 0}
	if !bytes.Equal(e.Bytes(), want) {
		t.Errorf("% x, want % x", e.Bytes(), want)
	}
}

func TestDecoderRefuses(t *testing.T) {
	word := func(n ...uint32) (b []byte) {
		for _, w := range n {
			b = binary.BigEndian.AppendUint32(b, w)
		}
		return b
	}
	for name, f := range map[string]func(*Decoder){
		"nothing":         func(d *Decoder) { d.b = nil; d.Uint32() },
		"long string":     func(d *Decoder) { d.b = word(MaxString+1, 0); _ = d.String() },
		"string cut off":  func(d *Decoder) { d.b = word(9, 0); _ = d.String() },
		"no padding":      func(d *Decoder) { d.b = append(word(1), 'x'); _ = d.String() },
		"odd flag":        func(d *Decoder) { d.b = word(2, 0); d.OptString() },
		"long list":       func(d *Decoder) { d.b = word(5, 0); d.Count(10, 4) },
		"list over limit": func(d *Decoder) { d.b = append(word(11), make([]byte, 99)...); d.Count(10, 4) },
		"parameter type":  func(d *Decoder) { d.b = word(1, 0, 8, 0); d.Params() },
		"short UUID":      func(d *Decoder) { d.b = word(1, 2, 3); d.UUID() },
	} {
		d := &Decoder{}
		if f(d); !errors.Is(d.Err(), ErrMalformed) {
			t.Errorf("%s: error %v", name, d.Err())
		}
		if d.Uint64() != 0 || d.String() != "" || d.Params() != nil {
			t.Errorf("%s: values after the error", name)
		}
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 35, firstRead, firstRead * 9, MaxMessage - headerLength} {
		h := Header{Program: ProgramRemote, Version: 1, Procedure: VolumeUpload, Type: Stream, Serial: 77, Status: Continue}
		m := NewMessage(h, bytes.Repeat([]byte{0xa5}, size))
		var b bytes.Buffer
		if _, err := m.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		got, err := ReadMessage(&b)
		if err != nil {
			t.Fatal(err)
		}
		if got.Header != h || !bytes.Equal(got.Payload(), m.Payload()) {
			t.Errorf("size %d: header %+v or payload differs", size, got.Header)
		}
		if again := got.WithSerial(5); again.Serial != 5 || again.Procedure != VolumeUpload || len(again.Payload()) != size {
			t.Errorf("size %d: with another serial it is %+v", size, again.Header)
		}
	}
	if _, err := NewMessage(Header{}, make([]byte, MaxMessage)).WriteTo(io.Discard); err == nil {
		t.Error("a message above the limit was sent")
	}
}

func TestReadMessageRefuses(t *testing.T) {
	for n, want := range map[uint32]error{0: ErrMalformed, 27: ErrMalformed, MaxMessage + 1: ErrMalformed, 1 << 31: ErrMalformed, 28: io.ErrUnexpectedEOF, 9999: io.ErrUnexpectedEOF} {
		_, err := ReadMessage(bytes.NewReader(binary.BigEndian.AppendUint32(nil, n)))
		if !errors.Is(err, want) {
			t.Errorf("length %d: error %v, want %v", n, err, want)
		}
	}
	if _, err := ReadMessage(strings.NewReader("")); err != io.EOF {
		t.Errorf("end between messages: %v", err)
	}
}

// A peer that announces much and sends little costs little memory.
func TestAnnouncedLengthIsNotAllocated(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, MaxMessage)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = ReadMessage(iotest.OneByteReader(bytes.NewReader(head)))
		}
	}).AllocedBytesPerOp()
	if got > 2*firstRead {
		t.Errorf("%d bytes for a message of 4 bytes", got)
	}
}

func TestErrorsAreLibvirts(t *testing.T) {
	e := Errorf(CodeNoPool, "no storage pool with matching name '%s'", "x")
	got := DecodeError(e.Encode())
	if got.Code != CodeNoPool || got.Domain != FromStorage || got.Error() != "Storage pool not found: no storage pool with matching name 'x'" {
		t.Errorf("%d %d %q", got.Code, got.Domain, got.Error())
	}
	if c := AsError(errors.New("other")).Code; c != CodeInternal {
		t.Errorf("an unknown error has code %d", c)
	}
	d := NewDecoder(nil)
	d.Uint32()
	if c := AsError(d.Err()).Code; c != CodeRPC {
		t.Errorf("a malformed message has code %d", c)
	}
	if c := DecodeError([]byte{1}).Code; c != CodeRPC {
		t.Errorf("an unreadable error has code %d", c)
	}
}

func FuzzMessage(f *testing.F) {
	var b bytes.Buffer
	_, _ = NewMessage(Header{Program: ProgramRemote}, []byte("abcd")).WriteTo(&b)
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 28})
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := ReadMessage(bytes.NewReader(in))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if _, err := NewMessage(m.Header, m.Payload()).WriteTo(&out); err != nil || !bytes.Equal(out.Bytes(), in[:out.Len()]) {
			t.Errorf("%x became %x (%v)", in, out.Bytes(), err)
		}
	})
}

func FuzzDecoder(f *testing.F) {
	var e Encoder
	e.Params([]Param{{"s", "text"}, {"d", 2.5}})
	f.Add(e.Bytes(), []byte("P"))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2, 'a', 'b', 0, 0}, []byte("o"))
	f.Fuzz(func(t *testing.T, in, script []byte) {
		d := NewDecoder(in)
		for _, op := range script {
			switch op % 7 {
			case 0:
				if len(d.String()) > len(in) {
					t.Error("a string longer than its message")
				}
			case 1:
				d.OptString()
			case 2:
				d.Params()
			case 3:
				d.Opaque()
			case 4:
				d.UUID()
			case 5:
				if n := d.Count(MaxList, 4); n*4 > len(in) {
					t.Errorf("a list of %d elements in %d bytes", n, len(in))
				}
			case 6:
				d.Uint64()
			}
		}
		DecodeError(in)
	})
}
