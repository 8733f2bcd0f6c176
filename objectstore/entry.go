package objectstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"sheepdog"
)

// entryKind says what a log entry does.
type entryKind uint8

const (
	entryInline entryKind = iota + 1 // write; the data are in the record
	entryExtent                      // write; the data are in extents
	entryZero                        // write zeros
	entryDrop                        // forget the object
	entryMerge                       // move what layer `to` lacks to it, forget the rest
)

// entry is one change of one pile, as the log keeps it and as apply takes it.
//
//	 0 kind(1) force(1) runs(2) count(4)
//	 8 family(8)
//	16 index(4) start(4)
//	24 layer(8)
//	32 to(8)
//	40 token(8)
//	48 seq(8)
//	56 CRC-32C(4) of each block, if it has data
//	.. place(8) n(4) of each run, if the data are in extents
//
// Numbers are little-endian. The data of inline entries follow in the record,
// in the order of the entries.
type entry struct {
	kind  entryKind
	force bool
	key   objectKey
	to    sheepdog.LayerID
	start sheepdog.BlockNo
	count uint32
	stamp sheepdog.Stamp
	crcs  []uint32
	runs  []run // of an inline entry: one, in the log
}

const entryFixed = 56

var errTruncated = errors.New("truncated")

func (e *entry) hasData() bool { return e.kind == entryInline || e.kind == entryExtent }

// size is the encoded length in bytes, without inline data.
func (e *entry) size() int {
	n := entryFixed
	if e.hasData() {
		n += 4 * len(e.crcs)
	}
	if e.kind == entryExtent {
		n += 12 * len(e.runs)
	}
	return n
}

func (e *entry) append(b []byte) []byte {
	le := binary.LittleEndian
	force := byte(0)
	if e.force {
		force = 1
	}
	runs := len(e.runs)
	if e.kind != entryExtent {
		runs = 0
	}
	at := len(b)
	b = append(b, zeroBlock[:entryFixed]...)
	f := (*[entryFixed]byte)(b[at:])
	f[0], f[1] = byte(e.kind), force
	le.PutUint16(f[2:], uint16(runs))
	le.PutUint32(f[4:], e.count)
	le.PutUint64(f[8:], uint64(e.key.Object.Family))
	le.PutUint32(f[16:], uint32(e.key.Object.Index))
	le.PutUint32(f[20:], uint32(e.start))
	le.PutUint64(f[24:], uint64(e.key.Layer))
	le.PutUint64(f[32:], uint64(e.to))
	le.PutUint64(f[40:], uint64(e.stamp.Token))
	le.PutUint64(f[48:], e.stamp.Seq)
	if e.hasData() {
		for _, c := range e.crcs {
			b = le.AppendUint32(b, c)
		}
	}
	for _, r := range e.runs[:runs] {
		b = le.AppendUint64(b, uint64(r.at))
		b = le.AppendUint32(b, r.n)
	}
	return b
}

// decodeEntry reads one entry and returns what follows it. The run of an inline
// entry is left to the caller, who knows where the record's data are.
func decodeEntry(b []byte) (entry, []byte, error) {
	if len(b) < entryFixed {
		return entry{}, nil, errTruncated
	}
	le := binary.LittleEndian
	e := entry{
		kind:  entryKind(b[0]),
		force: b[1] == 1,
		count: le.Uint32(b[4:]),
		key: objectKey{
			Object: sheepdog.ObjectID{Family: sheepdog.FamilyID(le.Uint64(b[8:])), Index: sheepdog.Index(le.Uint32(b[16:]))},
			Layer:  sheepdog.LayerID(le.Uint64(b[24:])),
		},
		start: sheepdog.BlockNo(le.Uint32(b[20:])),
		to:    sheepdog.LayerID(le.Uint64(b[32:])),
		stamp: sheepdog.Stamp{Token: sheepdog.Token(le.Uint64(b[40:])), Seq: le.Uint64(b[48:])},
	}
	runs := int(le.Uint16(b[2:]))
	if err := e.check(b[1], runs); err != nil {
		return entry{}, nil, err
	}
	b = b[entryFixed:]
	if e.hasData() {
		if uint64(len(b)) < 4*uint64(e.count) {
			return entry{}, nil, errTruncated
		}
		e.crcs = make([]uint32, e.count)
		for i := range e.crcs {
			e.crcs[i] = le.Uint32(b[4*i:])
		}
		b = b[4*e.count:]
	}
	return e.decodeRuns(b, runs)
}

func (e entry) decodeRuns(b []byte, runs int) (entry, []byte, error) {
	if e.kind != entryExtent {
		return e, b, nil
	}
	if len(b) < 12*runs {
		return entry{}, nil, errTruncated
	}
	var blocks uint64
	e.runs = make([]run, runs)
	for i := range e.runs {
		r := run{place(binary.LittleEndian.Uint64(b[12*i:])), binary.LittleEndian.Uint32(b[12*i+8:])}
		if !r.at.isExtent() || r.n == 0 {
			return entry{}, nil, fmt.Errorf("run %d of %d blocks is at %s", i, r.n, r.at)
		}
		blocks += uint64(r.n)
		e.runs[i] = r
	}
	if blocks != uint64(e.count) {
		return entry{}, nil, fmt.Errorf("runs have %d blocks, the entry %d", blocks, e.count)
	}
	return e, b[12*runs:], nil
}

// check refuses what append never makes.
func (e *entry) check(force byte, runs int) error {
	switch {
	case e.kind < entryInline || e.kind > entryMerge:
		return fmt.Errorf("unknown entry kind %d", e.kind)
	case force > 1:
		return fmt.Errorf("flags %#x of an entry are unknown", force)
	case e.kind == entryDrop || e.kind == entryMerge:
		if e.count != 0 || runs != 0 {
			return errors.New("a drop or merge has blocks")
		}
		return nil
	case e.kind != entryExtent && runs != 0:
		return errors.New("an entry without extents has runs")
	case e.hasData() && uint64(e.count) > sheepdog.MaxTransfer/blockSize:
		return fmt.Errorf("entry has data of %d blocks", e.count)
	}
	return checkRange(e.start, e.count)
}
