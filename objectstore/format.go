package objectstore

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"

	"sheepdog"
)

// format is what is fixed when a store is made: the file `store` in the
// metadata directory, the first thing that is written and read.
//
//	 0 magic(4) version(2) zero(2)
//	 8 store(8)          random identity
//	16 segment blocks(4) of the log
//	20 zero(4)
//	24 file blocks(8)    of an extent file
//	32 CRC-32C(4)        of all before
type format struct {
	store         uint64
	segmentBlocks uint32
	fileBlocks    uint64
}

const (
	formatMagic   = 0x464f4453 // "SDOF"
	formatVersion = 1
	formatLen     = 36
)

func (f format) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, formatLen)
	le.PutUint32(b, formatMagic)
	le.PutUint16(b[4:], formatVersion)
	le.PutUint64(b[8:], f.store)
	le.PutUint32(b[16:], f.segmentBlocks)
	le.PutUint64(b[24:], f.fileBlocks)
	le.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
	return b
}

func decodeFormat(b []byte) (format, error) {
	le := binary.LittleEndian
	if len(b) < formatLen || le.Uint32(b) != formatMagic {
		return format{}, errors.New("not a store of this program")
	}
	if v := le.Uint16(b[4:]); v != formatVersion {
		return format{}, &versionError{what: "store", found: uint32(v), want: formatVersion}
	}
	if crc32.Checksum(b[:32], castagnoli) != le.Uint32(b[32:]) {
		return format{}, errBadCRC
	}
	f := format{store: le.Uint64(b[8:]), segmentBlocks: le.Uint32(b[16:]), fileBlocks: le.Uint64(b[24:])}
	if f.segmentBlocks < minSegmentBlocks || f.segmentBlocks > 1<<segmentBits || f.fileBlocks == 0 || f.fileBlocks%64 != 0 {
		return format{}, errors.New("store has impossible sizes")
	}
	return f, nil
}

// diskLabel is the file `disk` in the directory of a disk.
//
//	 0 magic(4) version(2) disk(2)
//	 8 store(8)
//	16 CRC-32C(4) of all before
const (
	diskLabel    = "disk"     // name of the file
	labelMagic   = 0x4b444453 // "SDDK"
	labelVersion = 1
	labelLen     = 20
)

func encodeLabel(store uint64, id diskID) []byte {
	le := binary.LittleEndian
	b := make([]byte, labelLen)
	le.PutUint32(b, labelMagic)
	le.PutUint16(b[4:], labelVersion)
	le.PutUint16(b[6:], uint16(id))
	le.PutUint64(b[8:], store)
	le.PutUint32(b[16:], crc32.Checksum(b[:16], castagnoli))
	return b
}

func decodeLabel(b []byte, store uint64) (diskID, error) {
	le := binary.LittleEndian
	if len(b) < labelLen || le.Uint32(b) != labelMagic {
		return 0, errors.New("not a disk of this program")
	}
	if v := le.Uint16(b[4:]); v != labelVersion {
		return 0, &versionError{what: "disk", found: uint32(v), want: labelVersion}
	}
	if crc32.Checksum(b[:16], castagnoli) != le.Uint32(b[16:]) {
		return 0, errBadCRC
	}
	if s := le.Uint64(b[8:]); s != store {
		return 0, fmt.Errorf("disk of store %016x, not of %016x; if that store is gone, remove all that is in the directory: %w", s, store, sheepdog.ErrInvalid)
	}
	return diskID(le.Uint16(b[6:])), nil
}

// readSmall reads a small file; nil if it is missing, empty or all zeros, as a
// crash while it was made leaves it.
func readSmall(fs fileSystem, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, diskError("open "+name, err)
	}
	defer f.Close()
	b := make([]byte, blockSize)
	if err := readFull(f, b, 0); err != nil {
		return nil, diskError("read "+name, err)
	}
	if bytes.Equal(b, zeroBlock[:]) {
		return nil, nil
	}
	return b, nil
}

func writeSmall(fs fileSystem, name string, b []byte) error {
	f, err := fs.Open(name)
	if err != nil {
		return diskError("make "+name, err)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = errors.Join(f.Sync(), fs.SyncDir(filepath.Dir(name)))
	}
	return diskError("write "+name, errors.Join(err, f.Close()))
}

// openFormat reads what is fixed of a store, or fixes it.
func openFormat(o *Options) (format, error) {
	name := filepath.Join(o.Meta, "store")
	b, err := readSmall(o.files, name)
	if err != nil {
		return format{}, err
	}
	if b != nil {
		f, err := decodeFormat(b)
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return f, err
	}
	var id [8]byte
	rand.Read(id[:]) // never fails
	f := format{
		store:         binary.LittleEndian.Uint64(id[:]),
		segmentBlocks: o.segmentBlocks(),
		fileBlocks:    uint64(o.ExtentFileBytes / blockSize),
	}
	return f, writeSmall(o.files, name, f.encode())
}
