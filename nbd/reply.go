package nbd

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// maxText bounds what we tell people in one reply, in bytes.
const maxText = 512

// maxReplyHead is the largest reply without the payload of a READ.
const maxReplyHead = structuredSize + max(6+maxText, 4+8*maxExtents)

const (
	simpleSize     = 16
	structuredSize = 20
)

// clip makes a text fit to be sent: valid UTF-8 of at most maxText bytes.
func clip(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// appendReply appends the reply to a request, without the payload of a READ,
// which payload tells. Where structured replies were negotiated, READ and
// BLOCK_STATUS must use them, and errors do so for their text; for the rest the
// simple reply is shorter.
func appendReply(b []byte, q *request, structured bool) []byte {
	switch {
	case !structured:
		return appendSimple(b, q.cookie, wireErrno(q.err))
	case q.err != nil:
		return appendError(b, q.cookie, q.err)
	case q.cmd == cmdRead && len(q.data) > 0:
		b = appendChunk(b, q.cookie, chunkOffsetData, 8+uint32(len(q.data)))
		return binary.BigEndian.AppendUint64(b, q.off)
	case q.cmd == cmdRead:
		return appendChunk(b, q.cookie, chunkNone, 0)
	case q.cmd == cmdBlockStatus:
		return appendStatus(b, q.cookie, q.extents)
	}
	return appendSimple(b, q.cookie, 0)
}

// payload is what follows the reply's head.
func (q *request) payload() []byte {
	if q.cmd == cmdRead && q.err == nil {
		return q.data
	}
	return nil
}

// appendSimple:
//
//	0       4       8        16
//	| magic | errno | cookie |
func appendSimple(b []byte, cookie uint64, errno uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimple)
	b = binary.BigEndian.AppendUint32(b, errno)
	return binary.BigEndian.AppendUint64(b, cookie)
}

// appendChunk appends the head of a reply's only chunk:
//
//	0       4       6      8        16       20
//	| magic | flags | type | cookie | length |
func appendChunk(b []byte, cookie uint64, typ uint16, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, chunkDone)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, length)
}

// appendError: | 32 errno | 16 length | text |
func appendError(b []byte, cookie uint64, err error) []byte {
	text := clip(err.Error())
	b = appendChunk(b, cookie, chunkError, uint32(6+len(text)))
	b = binary.BigEndian.AppendUint32(b, wireErrno(err))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// appendStatus: | 32 context id | extents * (32 length | 32 flags) |
func appendStatus(b []byte, cookie uint64, extents []Extent) []byte {
	b = appendChunk(b, cookie, chunkBlockStatus, uint32(4+8*len(extents)))
	b = binary.BigEndian.AppendUint32(b, allocationContextID)
	for _, e := range extents {
		b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
		b = binary.BigEndian.AppendUint32(b, uint32(e.Flags))
	}
	return b
}
