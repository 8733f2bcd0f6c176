package peer

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"sheepdog"
)

// Every message is one frame: a header, the encoded request or reply (meta) and
// bytes of blocks or a body (data). Integers are big-endian.
//
//	0        2         3      4       6      8            16
//	| "SF"   | version | kind | flags | 0    | request id |
//	16       20         24         28         32          36
//	| meta n | data n   | meta CRC | data CRC | head CRC  |
//
// CRCs are CRC-32C; the last is over the first 32 bytes. A reply has the id of
// its request and the kind of it with kindReply set.
const (
	headerSize = 36
	maxMeta    = 16 << 20
	maxPart    = 8 << 20  // of a meta that is sent in parts
	maxFrame   = 34 << 20 // header, meta and data
	// maxBody bounds the body of a control call or of its reply.
	maxBody = 32 << 20
	// maxReply bounds the meta of a reply that is sent in parts.
	maxReply = 1 << 30
	frameTag = 'S'<<8 | 'F'
)

type frameKind uint8

const (
	kindHello frameKind = iota + 1
	kindPing
	kindCancel
	kindWrite
	kindRead
	kindFlush
	kindSeal
	kindList
	kindFetch
	kindForward
	kindControl
	kindLast  = kindControl
	kindReply = frameKind(0x80)
)

func (k frameKind) String() string {
	names := [...]string{"", "hello", "ping", "cancel", "write", "read", "flush", "seal", "list", "fetch", "forward", "control"}
	base := k &^ kindReply
	if base == 0 || base > kindLast {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	if k&kindReply != 0 {
		return names[base] + " reply"
	}
	return names[base]
}

type frameFlags uint16

const (
	flagError frameFlags = 1 << iota // meta is an error code and its text
	flagMore                         // meta is a part, further frames follow
	flagRaw                          // data are covered by checksums in the meta, data CRC is 0
	flagsAll  = flagError | flagMore | flagRaw
)

type header struct {
	kind    frameKind
	flags   frameFlags
	id      uint64
	meta    uint32 // bytes
	data    uint32 // bytes
	metaCRC uint32
	dataCRC uint32
}

var be = binary.BigEndian

// castagnoli is computed once; it is read only.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func appendHeader(b []byte, h header) []byte {
	n := len(b)
	b = slices.Grow(b, headerSize)[:n+headerSize]
	putHeader(b[n:], h)
	return b
}

// putHeader encodes a header at the start of b.
func putHeader(b []byte, h header) {
	b = b[:headerSize]
	be.PutUint16(b, frameTag)
	b[2], b[3] = sheepdog.ProtocolVersion, byte(h.kind)
	be.PutUint16(b[4:], uint16(h.flags))
	be.PutUint16(b[6:], 0)
	be.PutUint64(b[8:], h.id)
	be.PutUint32(b[16:], h.meta)
	be.PutUint32(b[20:], h.data)
	be.PutUint32(b[24:], h.metaCRC)
	be.PutUint32(b[28:], h.dataCRC)
	be.PutUint32(b[32:], checksum(b[:32]))
}

// decodeHeader reads the header at the start of b, which has headerSize bytes
// or more, and checks its lengths.
func decodeHeader(b []byte) (header, error) {
	b = b[:headerSize]
	if be.Uint16(b) != frameTag || be.Uint32(b[32:]) != checksum(b[:32]) {
		return header{}, fmt.Errorf("%w: bad header", errGarbled)
	}
	if b[2] != sheepdog.ProtocolVersion {
		return header{}, fmt.Errorf("%w: frame of version %d", errVersion, b[2])
	}
	h := header{
		kind: frameKind(b[3]), flags: frameFlags(be.Uint16(b[4:])), id: be.Uint64(b[8:]),
		meta: be.Uint32(b[16:]), data: be.Uint32(b[20:]), metaCRC: be.Uint32(b[24:]), dataCRC: be.Uint32(b[28:]),
	}
	if h.flags&^flagsAll != 0 || be.Uint16(b[6:]) != 0 {
		return header{}, fmt.Errorf("%w: unknown flags", errGarbled)
	}
	if h.meta > maxMeta || headerSize+uint64(h.meta)+uint64(h.data) > maxFrame {
		return header{}, fmt.Errorf("%w: %s frame of %d+%d bytes is too long", errGarbled, h.kind, h.meta, h.data)
	}
	return h, nil
}

// size is how many bytes the frame takes.
func (h header) size() int { return headerSize + int(h.meta) + int(h.data) }

// checkMeta and checkData verify what came with the header. Raw data are verified by
// who asked for them.
func (h header) checkMeta(meta []byte) error { return h.check("meta", h.metaCRC, meta) }

func (h header) checkData(data []byte) error {
	if h.flags&flagRaw != 0 {
		return nil
	}
	return h.check("data", h.dataCRC, data)
}

func (h header) check(part string, crc uint32, b []byte) error {
	if len(b) == 0 && crc == 0 || checksum(b) == crc {
		return nil
	}
	return h.mismatch(part)
}

func (h header) mismatch(part string) error {
	return fmt.Errorf("%w: %s of %s %d does not match its checksum", errGarbled, part, h.kind, h.id)
}

func updateChecksum(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }
