// Package backup is how dog keeps the data of snapshots outside of a cluster:
// the stream of `dog vdi backup`, which is the original's format, and a Store, a
// directory in which equal pieces are kept once and everything is checked by its
// SHA-256. It speaks to no cluster; its callers bring and take bytes.
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Sector is the unit in which differences are cut, in bytes.
const Sector = 512

// Piece is the most bytes that one record or one chunk has. Larger objects have
// several.
const Piece = 4 << 20

const (
	streamVersion = 1
	streamMagic   = 0x11921192
	endIndex      = 0xffffffff
	recordLength  = 16
	trailerMark   = "sheepdog sha256\n"
)

// ErrCorrupted is returned for a stream or a store that is not as it was written.
var ErrCorrupted = errors.New("the backup is corrupted")

func corrupted(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupted, fmt.Sprintf(format, args...))
}

// Record is one run of bytes of an object. A stream, all little endian:
//
//	header  uint32 version 1, uint32 magic 0x11921192
//	record  uint32 index, uint32 offset, uint32 length, uint32 0; length bytes
//	...
//	end     a record with index 0xffffffff and length 0
//	trailer 16 bytes "sheepdog sha256\n", SHA-256 of all before
//
// The original's streams have no trailer, and it does not read ours.
type Record struct {
	Index  uint32
	Offset uint32 // in the object, in bytes
	Data   []byte
}

// Writer writes a stream; Close ends it.
type Writer struct {
	w     io.Writer
	sum   hash.Hash
	begun bool
}

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer {
	sum := sha256.New()
	return &Writer{w: io.MultiWriter(w, sum), sum: sum}
}

func (w *Writer) begin() error {
	if w.begun {
		return nil
	}
	w.begun = true
	var h [8]byte
	binary.LittleEndian.PutUint32(h[:], streamVersion)
	binary.LittleEndian.PutUint32(h[4:], streamMagic)
	_, err := w.w.Write(h[:])
	return err
}

// Write adds a record. The last object of the largest possible VDI has none: its
// index is that of the end.
func (w *Writer) Write(r Record) error {
	if r.Index == endIndex {
		return fmt.Errorf("object %d cannot be part of a stream, whose end has this index; keep the backup in a directory, with --dir", r.Index)
	}
	return w.write(r)
}

func (w *Writer) write(r Record) error {
	if err := w.begin(); err != nil {
		return err
	}
	var h [recordLength]byte
	binary.LittleEndian.PutUint32(h[:], r.Index)
	binary.LittleEndian.PutUint32(h[4:], r.Offset)
	binary.LittleEndian.PutUint32(h[8:], uint32(len(r.Data)))
	if _, err := w.w.Write(h[:]); err != nil {
		return err
	}
	_, err := w.w.Write(r.Data)
	return err
}

// Close writes the end; the writer below is the caller's to close.
func (w *Writer) Close() error {
	if err := w.write(Record{Index: endIndex}); err != nil {
		return err
	}
	_, err := w.w.Write(w.sum.Sum([]byte(trailerMark)))
	return err
}

// Reader reads a stream.
type Reader struct {
	r     io.Reader
	sum   hash.Hash
	limit uint64 // bytes of an object
	begun bool
}

// NewReader reads from r; objects have at most limit bytes.
func NewReader(r io.Reader, limit uint64) *Reader {
	sum := sha256.New()
	return &Reader{r: io.TeeReader(r, sum), sum: sum, limit: limit}
}

// Next is the next record, or io.EOF after the end. Its data are read piece by
// piece: a lie about their length costs no memory.
func (r *Reader) Next() (Record, error) {
	if !r.begun {
		if err := r.header(); err != nil {
			return Record{}, err
		}
		r.begun = true
	}
	var h [recordLength]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return Record{}, corrupted("it ends without its end record: %v", err)
	}
	rec := Record{Index: binary.LittleEndian.Uint32(h[:]), Offset: binary.LittleEndian.Uint32(h[4:])}
	length := binary.LittleEndian.Uint32(h[8:])
	if rec.Index == endIndex {
		return Record{}, r.trailer()
	}
	if uint64(rec.Offset)+uint64(length) > r.limit {
		return Record{}, corrupted("a record of %d bytes at %d is beyond the end of an object of %d bytes", length, rec.Offset, r.limit)
	}
	data, err := io.ReadAll(io.LimitReader(r.r, int64(length)))
	if err != nil {
		return Record{}, fmt.Errorf("read the backup: %w", err)
	}
	if len(data) != int(length) {
		return Record{}, corrupted("it ends within a record")
	}
	rec.Data = data
	return rec, nil
}

// trailer checks the sum of all that was read; it is io.EOF if that is right, or
// if the stream has none.
func (r *Reader) trailer() error {
	want := r.sum.Sum([]byte(trailerMark))
	got := make([]byte, len(want))
	switch n, err := io.ReadFull(r.r, got); {
	case n == 0 && err == io.EOF:
		return io.EOF
	case err != nil && err != io.ErrUnexpectedEOF:
		return fmt.Errorf("read the backup: %w", err)
	case err != nil || !bytes.Equal(got, want):
		return corrupted("its bytes are not those whose checksum it has")
	}
	return io.EOF
}

func (r *Reader) header() error {
	var h [8]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return corrupted("it has no header: %v", err)
	}
	if v, m := binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint32(h[4:]); v != streamVersion || m != streamMagic {
		return corrupted("version %d and magic %#x are not those of a backup", v, m)
	}
	return nil
}

// Difference is where two byte strings of equal length differ, cut to whole
// sectors at both ends; from == to if they are equal.
func Difference(a, b []byte) (from, to int) {
	n := len(b)
	for from < n && equalSector(a, b, from) {
		from += Sector
	}
	if from >= n {
		return 0, 0
	}
	for to = n; ; {
		start := (to - 1) / Sector * Sector
		if start < from || !equalSector(a, b, start) {
			return from, to
		}
		to = start
	}
}

func equalSector(a, b []byte, at int) bool {
	end := min(at+Sector, len(b))
	return string(a[at:end]) == string(b[at:end])
}

// IsZero reports whether all bytes are zero.
func IsZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
