package objectstore

import (
	"fmt"
	"hash/crc32"

	"sheepdog"
)

// Limits of requests.
const (
	// MaxObjectBlocks is the number of blocks of the largest object.
	MaxObjectBlocks = 1 << (sheepdog.MaxBlockSizeShift - 12)
	// MaxFact is the size of the largest named fact in bytes.
	MaxFact = 256 << 10
	// MaxFactName is the length of the longest name of a fact in bytes.
	MaxFactName = 255
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkOp refuses an op that no caller should make.
func checkOp(op *sheepdog.Op) error {
	if err := checkRange(op.Start, op.Count); err != nil {
		return err
	}
	if op.Data == nil {
		return nil
	}
	if uint64(len(op.Data)) != uint64(op.Count)*sheepdog.BlockSize {
		return fmt.Errorf("write %d bytes to %d blocks of object %s: %w", len(op.Data), op.Count, op.Object, sheepdog.ErrInvalid)
	}
	if len(op.Data) > sheepdog.MaxTransfer {
		return fmt.Errorf("write %d bytes to object %s at once, at most %d: %w", len(op.Data), op.Object, sheepdog.MaxTransfer, sheepdog.ErrInvalid)
	}
	return nil
}

func checkRange(start sheepdog.BlockNo, count uint32) error {
	if count == 0 || uint64(start)+uint64(count) > MaxObjectBlocks {
		return fmt.Errorf("blocks %d+%d of an object of at most %d: %w", start, count, MaxObjectBlocks, sheepdog.ErrInvalid)
	}
	return nil
}

func checkRead(start sheepdog.BlockNo, count uint32, buf, states int) error {
	if err := checkRange(start, count); err != nil {
		return err
	}
	if uint64(buf) != uint64(count)*sheepdog.BlockSize || uint64(states) != uint64(count) {
		return fmt.Errorf("read %d blocks into %d bytes and %d states: %w", count, buf, states, sheepdog.ErrInvalid)
	}
	return nil
}

func checkRecords(start sheepdog.BlockNo, count uint32, recs int) error {
	if err := checkRange(start, count); err != nil {
		return err
	}
	if uint64(recs) != uint64(count) {
		return fmt.Errorf("read %d records into %d: %w", count, recs, sheepdog.ErrInvalid)
	}
	return nil
}

func checkFact(name string, value []byte) error {
	if name == "" || len(name) > MaxFactName || len(value) > MaxFact {
		return fmt.Errorf("keep fact %q of %d bytes: want a name of 1 to %d and at most %d bytes: %w",
			name, len(value), MaxFactName, MaxFact, sheepdog.ErrInvalid)
	}
	return nil
}

func errMergeSelf(layer sheepdog.LayerID) error {
	return fmt.Errorf("merge layer %x into itself: %w", uint64(layer), sheepdog.ErrInvalid)
}

// mixRecord is the share of one block in its object's digest: shares are
// joined by XOR, so the order in which blocks were written does not matter. It
// is compared between nodes: changing it needs a new protocol version.
func mixRecord(no sheepdog.BlockNo, r sheepdog.Record) uint64 {
	h := mix64(uint64(no)<<8 | uint64(r.State) + 0x9e3779b97f4a7c15)
	h = mix64(h ^ uint64(r.CRC))
	h = mix64(h ^ uint64(r.Stamp.Token))
	return mix64(h ^ r.Stamp.Seq)
}

// mix64 is the SplitMix64 finaliser (Stafford variant 13). It is a bijection.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
