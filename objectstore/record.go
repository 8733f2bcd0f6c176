package objectstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// recordHeader begins every record of the log; a record is written by one
// write and carries the entries of all callers that were waiting.
//
//	 0 magic(4) version(2) zero(2)
//	 8 generation(8)  of the segment: tells records of earlier laps apart
//	16 lsn(8)         of the first entry; the others follow without gaps
//	24 durable(8)     every entry up to this one was durable before the write
//	32 head blocks(4) header and entries, padded to whole blocks
//	36 data blocks(4) of inline entries, after the head
//	40 entries(4) entry bytes(4)
//	48 CRC-32C(4)     of the store's identity(8), header (this field zero) and entries;
//	                  data have their own
//	52 zero(12)
//	64 entries ...
//
// In version 1 the checksum is without the identity. With it, what a guest has written
// is not taken for a record: it knows of no identity, but may have blocks of a log, of a
// sheep in it, or of one that it makes up. The version is that of the segment's header.
//
// Numbers are little-endian. Head and data are whole blocks so that an append
// never has to read the rest of a page, and inline data can be addressed.
type recordHeader struct {
	gen        generation
	first      lsn
	durable    lsn
	headBlocks uint32
	dataBlocks uint32
	entries    uint32
	entryBytes uint32
}

const (
	recordMagic   = 0x524c4453 // "SDLR"
	logVersion    = 2
	recordFixed   = 64
	recordCRCAt   = 48
	maxEntryBytes = 1 << 20
)

var (
	// errNoRecord: nothing was written here in this lap.
	errNoRecord = errors.New("no record")
	errBadCRC   = errors.New("checksum mismatch")
)

// blocks is the length of the whole record.
func (h *recordHeader) blocks() uint32 { return h.headBlocks + h.dataBlocks }

// headBlocksOf is the length of the head for so many bytes of entries.
func headBlocksOf(entryBytes int) uint32 {
	return uint32((recordFixed + entryBytes + blockSize - 1) / blockSize)
}

// logForm is how the records of a segment are written.
type logForm struct {
	version uint16
	salt    uint32 // what the checksum begins with
}

func newLogForm(version uint16, store uint64) logForm {
	f := logForm{version: version}
	if version > 1 {
		f.salt = crc32.Checksum(binary.LittleEndian.AppendUint64(nil, store), castagnoli)
	}
	return f
}

// finishRecord fills in the header in front of the entries that follow it in
// head, checksums both, and returns the zeros that make them whole blocks.
func finishRecord(head []byte, h *recordHeader, form logForm) (pad []byte) {
	le := binary.LittleEndian
	h.entryBytes = uint32(len(head) - recordFixed)
	h.headBlocks = headBlocksOf(int(h.entryBytes))
	clear(head[:recordFixed])
	le.PutUint32(head, recordMagic)
	le.PutUint16(head[4:], form.version)
	le.PutUint64(head[8:], uint64(h.gen))
	le.PutUint64(head[16:], uint64(h.first))
	le.PutUint64(head[24:], uint64(h.durable))
	le.PutUint32(head[32:], h.headBlocks)
	le.PutUint32(head[36:], h.dataBlocks)
	le.PutUint32(head[40:], h.entries)
	le.PutUint32(head[44:], h.entryBytes)
	le.PutUint32(head[recordCRCAt:], crc32.Update(form.salt, castagnoli, head))
	return zeroBlock[:int(h.headBlocks)*blockSize-len(head)]
}

// decodeRecordHeader reads the fixed part of a record and bounds it by the
// blocks that are left in the segment. The checksum is not checked yet: until then
// it may be anything, and nothing is to be concluded from it.
func decodeRecordHeader(b []byte, left uint32, form logForm) (recordHeader, error) {
	le := binary.LittleEndian
	if len(b) < recordFixed || le.Uint32(b) != recordMagic || le.Uint16(b[4:]) != form.version {
		return recordHeader{}, errNoRecord
	}
	h := recordHeader{
		gen:        generation(le.Uint64(b[8:])),
		first:      lsn(le.Uint64(b[16:])),
		durable:    lsn(le.Uint64(b[24:])),
		headBlocks: le.Uint32(b[32:]),
		dataBlocks: le.Uint32(b[36:]),
		entries:    le.Uint32(b[40:]),
		entryBytes: le.Uint32(b[44:]),
	}
	if h.entryBytes > maxEntryBytes || h.headBlocks != headBlocksOf(int(h.entryBytes)) ||
		uint64(h.headBlocks)+uint64(h.dataBlocks) > uint64(left) || h.entries == 0 || h.first == 0 {
		return recordHeader{}, errBadCRC
	}
	return h, nil
}

// decodeRecord verifies a head, which begins at block at of its segment, and
// reads its entries. The places of inline data are filled in.
func decodeRecord(head []byte, h *recordHeader, at uint32, form logForm) ([]entry, error) {
	used := recordFixed + int(h.entryBytes)
	if len(head) < used {
		return nil, errTruncated
	}
	if recordCRC(head[:used], form) != binary.LittleEndian.Uint32(head[recordCRCAt:]) {
		return nil, errBadCRC
	}
	b := head[recordFixed:used]
	data := at + h.headBlocks
	end := data + h.dataBlocks
	entries := make([]entry, 0, min(int(h.entries), len(b)/entryFixed))
	for len(b) > 0 {
		e, rest, err := decodeEntry(b)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(entries), err)
		}
		if e.kind == entryInline {
			e.runs = []run{{logPlace(h.gen, data), e.count}}
			data += e.count
		}
		entries, b = append(entries, e), rest
	}
	if len(entries) != int(h.entries) || data != end {
		return nil, fmt.Errorf("record has %d entries with data up to block %d; its header says %d and %d", len(entries), data, h.entries, end)
	}
	return entries, nil
}

func recordCRC(head []byte, form logForm) uint32 {
	var zero [4]byte
	c := crc32.Update(form.salt, castagnoli, head[:recordCRCAt])
	c = crc32.Update(c, castagnoli, zero[:])
	return crc32.Update(c, castagnoli, head[recordCRCAt+4:])
}

// segmentHeader is block 0 of a log segment.
//
//	 0 magic(4) version(2) zero(2)
//	 8 store(8)      identity of the store, from its format file
//	16 generation(8)
//	24 first(8)      LSN of the first entry that may be here
//	32 prev(8)       generation of the segment before it in the log
//	40 last(8)       LSN of the last entry that counts there
//	48 CRC-32C(4)    of all before
//	52 zero ...
//
// A segment that was never used is all zeros. Prev and last let a start that
// found the tail of the log lost go on behind what is left of it: of two
// segments that claim the same prev the younger one is right.
type segmentHeader struct {
	version uint16 // and that of its records
	store   uint64
	gen     generation
	first   lsn
	prev    generation
	last    lsn
}

const (
	segmentMagic = 0x534c4453 // "SDLS"
	segmentFixed = 52
)

func (h *segmentHeader) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	le.PutUint32(b, segmentMagic)
	le.PutUint16(b[4:], h.version)
	le.PutUint64(b[8:], h.store)
	le.PutUint64(b[16:], uint64(h.gen))
	le.PutUint64(b[24:], uint64(h.first))
	le.PutUint64(b[32:], uint64(h.prev))
	le.PutUint64(b[40:], uint64(h.last))
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
	return b
}

// decodeSegmentHeader reads block 0 of a segment; errNoRecord if it was never
// used.
func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	le := binary.LittleEndian
	if len(b) < segmentFixed {
		return segmentHeader{}, errTruncated
	}
	if bytes.Equal(b[:segmentFixed], zeroBlock[:segmentFixed]) {
		return segmentHeader{}, errNoRecord
	}
	if le.Uint32(b) != segmentMagic {
		return segmentHeader{}, errors.New("not a log segment of this program")
	}
	v := le.Uint16(b[4:])
	if v == 0 || v > logVersion {
		return segmentHeader{}, &versionError{what: "log segment", found: uint32(v), want: logVersion}
	}
	if crc32.Checksum(b[:48], castagnoli) != le.Uint32(b[48:]) {
		return segmentHeader{}, errBadCRC
	}
	return segmentHeader{
		version: v,
		store:   le.Uint64(b[8:]),
		gen:     generation(le.Uint64(b[16:])),
		first:   lsn(le.Uint64(b[24:])),
		prev:    generation(le.Uint64(b[32:])),
		last:    lsn(le.Uint64(b[40:])),
	}, nil
}

// versionError is returned when something on disk was written by another
// version of this program.
type versionError struct {
	what        string
	found, want uint32
}

func (e *versionError) Error() string {
	return fmt.Sprintf("%s has format version %d, this program knows %d: use the program that wrote it; nothing was changed", e.what, e.found, e.want)
}

var zeroBlock [blockSize]byte
