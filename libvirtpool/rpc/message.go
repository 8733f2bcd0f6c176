package rpc

import (
	"encoding/binary"
	"fmt"
	"io"
)

// headerLength is the length word and the six words of the header:
//
//	0      4        8        12         16    20      24      28
//	+------+--------+--------+----------+-----+-------+-------+---------
//	|length|program |version |procedure |type |serial |status |payload
//	+------+--------+--------+----------+-----+-------+-------+---------
//
// All are big-endian; length counts the whole frame.
const headerLength = 28

// firstRead bounds what is allocated on the word of a peer alone.
const firstRead = 64 << 10

// Header is the head of a message.
type Header struct {
	Program, Version uint32
	Procedure        Procedure
	Type             Type
	Serial           uint32
	Status           Status
}

// Reply is the header of the reply to a call.
func (h Header) Reply(s Status) Header {
	h.Type, h.Status = Reply, s
	return h
}

// Message is one frame. Its bytes are kept whole, so that it can be passed on
// without encoding it again.
type Message struct {
	Header
	frame []byte
}

// NewMessage makes a frame. Payloads that would exceed MaxMessage are refused by
// Write.
func NewMessage(h Header, payload []byte) *Message {
	b := make([]byte, 0, headerLength+len(payload))
	words := [...]uint32{uint32(headerLength + len(payload)), h.Program, h.Version, uint32(h.Procedure), uint32(h.Type), h.Serial, uint32(h.Status)}
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return &Message{Header: h, frame: append(b, payload...)}
}

// Payload is what follows the header.
func (m *Message) Payload() []byte { return m.frame[headerLength:] }

// WithSerial is the same message under another serial.
func (m *Message) WithSerial(serial uint32) *Message {
	h := m.Header
	h.Serial = serial
	return NewMessage(h, m.Payload())
}

// WriteTo sends the frame in one piece.
func (m *Message) WriteTo(w io.Writer) (int64, error) {
	if len(m.frame) > MaxMessage {
		return 0, fmt.Errorf("a message of %d bytes: at most %d are allowed", len(m.frame), MaxMessage)
	}
	n, err := w.Write(m.frame)
	return int64(n), err
}

// ReadMessage reads one frame. It returns io.EOF only at the end between frames,
// and ErrMalformed for a length that no frame has.
func ReadMessage(r io.Reader) (*Message, error) {
	var head [headerLength]byte
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:4]))
	if n < headerLength || n > MaxMessage {
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrMalformed, uint32(n))
	}
	frame, err := readFrame(r, head[:4], n)
	if err != nil {
		return nil, err
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(frame[i:]) }
	return &Message{frame: frame, Header: Header{
		Program: word(4), Version: word(8), Procedure: Procedure(word(12)),
		Type: Type(word(16)), Serial: word(20), Status: Status(word(24)),
	}}, nil
}

// readFrame reads up to n bytes; memory grows with what has come, not with what
// was announced.
func readFrame(r io.Reader, head []byte, n int) ([]byte, error) {
	frame := make([]byte, len(head), min(n, firstRead))
	copy(frame, head)
	for len(frame) < n {
		have := len(frame)
		if have == cap(frame) {
			grown := make([]byte, have, min(n, 4*have))
			copy(grown, frame)
			frame = grown
		}
		frame = frame[:cap(frame)]
		if _, err := io.ReadFull(r, frame[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return frame, nil
}
