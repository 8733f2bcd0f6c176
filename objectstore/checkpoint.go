package objectstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"

	"sheepdog"
)

// checkpoint says where the log begins: generations before firstGen are not
// needed. lastLSN is the last entry that the metadata store knows of; it is
// higher than the log's end after a loss of power. Of entries up to retired the log
// is not needed: all of them are in the metadata store. Generations up to reserved
// may have been used, also by segments whose headers a loss of power took.
//
//	version(1) firstGen(8) lastLSN(8) reserved(8) retired(8)
//
// Version 1 ends after lastLSN: then every segment had a durable header. Version 2 is of
// releases that know of no maps in object headers, and would take their blocks for free;
// version 3 of those that look for headers in Badger.
type checkpoint struct {
	firstGen generation
	lastLSN  lsn
	reserved generation
	retired  lsn
}

const (
	checkpointVersion = 4
	checkpointLen     = 33
	checkpointLen1    = 17
	checkpointSize    = checkpointLen + 64
)

func (c checkpoint) encode() []byte {
	b := append(make([]byte, 0, checkpointLen), checkpointVersion)
	for _, v := range []uint64{uint64(c.firstGen), uint64(c.lastLSN), uint64(c.reserved), uint64(c.retired)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func (c checkpoint) change() change {
	return change{key: append([]byte{keyMeta}, "checkpoint"...), value: c.encode()}
}

func decodeCheckpoint(b []byte) (checkpoint, error) {
	if b == nil {
		return checkpoint{firstGen: 1}, nil
	}
	want := checkpointLen
	switch {
	case len(b) > 0 && b[0] == 1:
		want = checkpointLen1
	case len(b) > 0 && (b[0] == 0 || b[0] > checkpointVersion):
		return checkpoint{}, &versionError{what: "checkpoint", found: uint32(b[0]), want: checkpointVersion}
	}
	if len(b) != want {
		return checkpoint{}, fmt.Errorf("checkpoint of %d bytes is malformed", len(b))
	}
	var v [4]uint64
	for i := range (want - 1) / 8 {
		v[i] = binary.LittleEndian.Uint64(b[1+8*i:])
	}
	return checkpoint{firstGen: generation(v[0]), lastLSN: lsn(v[1]), reserved: generation(v[2]), retired: lsn(v[3])}, nil
}

// logKey is of an entry that is there since something in the log was durable for the
// first time. Until the first destage nothing else in the metadata store tells.
var logKey = append([]byte{keyMeta}, "log"...)

// rememberLog writes that entry, and is false where there is no space for it.
func (d *Disk) rememberLog() (bool, error) {
	c := change{key: logKey, value: []byte{1}}
	err := d.meta.Room(1, c.size())
	if errors.Is(err, sheepdog.ErrNoSpace) {
		return false, nil // the next flush tries again
	}
	if err == nil {
		err = d.meta.Commit([]change{c})
	}
	if err != nil {
		return false, metaError("note that there is a log", err)
	}
	return true, nil
}

// knowsLog reports whether there was ever something durable in the log.
func (d *Disk) knowsLog(ck checkpoint) (bool, error) {
	if ck.lastLSN > 0 {
		return true, nil
	}
	b, err := d.meta.Get(logKey)
	if err != nil {
		return false, metaError("read whether there is a log", err)
	}
	return b != nil, nil
}

// change writes the tombstone: the LSN of the drop.
func (t tombstone) change() change {
	return change{key: t.key.encode(keyTombstone), value: binary.LittleEndian.AppendUint64(nil, uint64(t.at))}
}

func decodeTombstone(key, value []byte) (tombstone, error) {
	k, err := decodeObjectKey(key)
	if err != nil || len(value) != 8 {
		return tombstone{}, errors.Join(err, fmt.Errorf("tombstone of %d bytes is malformed", len(value)))
	}
	return tombstone{k, lsn(binary.LittleEndian.Uint64(value))}, nil
}

// The space file is written when a store is closed, and removed before the next
// one changes anything, so that a clean start needs no scan of the maps. A
// store without one scans.
//
//	 0 magic(4) version(2) zero(2)
//	 8 store(8)
//	16 checkpoint's lastLSN(8)
//	24 disks(4)
//	.. disk(2) zero(2) words(4), then the words(8) of the bitmaps of the blocks
//	   in use and of slack
//	.. CRC-32C(4) of all before
const (
	spaceMagic   = 0x464c4453 // "SDLF"
	spaceVersion = 1
	spaceFixed   = 28
)

func (d *Disk) spaceName() string { return filepath.Join(d.opts.Meta, "space") }

func (d *Disk) saveSpace() error {
	f, err := d.opts.files.Open(d.spaceName())
	if err != nil {
		return diskError("save the map of free space", err)
	}
	_, err = f.WriteAt(encodeSpace(d.store, lsn(d.journal.applied.Load()), d.volumes.all()), 0)
	if err == nil && !d.opts.NoSync {
		err = errors.Join(f.Sync(), d.opts.files.SyncDir(d.opts.Meta))
	}
	return diskError("save the map of free space", errors.Join(err, f.Close()))
}

func encodeSpace(store uint64, last lsn, vols []*volume) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, spaceMagic)
	b = le.AppendUint32(b, spaceVersion)
	b = le.AppendUint64(b, store)
	b = le.AppendUint64(b, uint64(last))
	b = le.AppendUint32(b, uint32(len(vols)))
	for _, v := range vols {
		b = le.AppendUint32(b, uint32(v.id))
		b = le.AppendUint32(b, uint32(len(v.space.used)))
		for _, w := range slices.Concat(v.space.used, v.space.slack) {
			b = le.AppendUint64(b, w)
		}
	}
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeSpace reads the two bitmaps of each disk, one after the other.
func decodeSpace(b []byte, store uint64) (last lsn, used map[diskID][]uint64, err error) {
	le := binary.LittleEndian
	if len(b) < spaceFixed+4 || le.Uint32(b) != spaceMagic {
		return 0, nil, errors.New("not a map of free space")
	}
	if v := le.Uint32(b[4:]); v != spaceVersion {
		return 0, nil, &versionError{what: "map of free space", found: v, want: spaceVersion}
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != le.Uint32(b[len(body):]) {
		return 0, nil, errBadCRC
	}
	if le.Uint64(b[8:]) != store {
		return 0, nil, errors.New("map of free space of another store")
	}
	last = lsn(le.Uint64(b[16:]))
	used = make(map[diskID][]uint64)
	disks := le.Uint32(b[24:])
	for body = body[spaceFixed:]; len(body) > 0; disks-- {
		if len(body) < 8 || uint64(len(body)-8) < 16*uint64(le.Uint32(body[4:])) {
			return 0, nil, errTruncated
		}
		words := make([]uint64, 2*int(le.Uint32(body[4:])))
		for i := range words {
			words[i] = le.Uint64(body[8+8*i:])
		}
		used[diskID(le.Uint32(body))] = words
		body = body[8+8*len(words):]
	}
	if disks != 0 {
		return 0, nil, errTruncated
	}
	return last, used, nil
}

// takeSpace loads the space file and removes it; false if there is none that
// fits what the store holds.
func (d *Disk) takeSpace(last lsn) (bool, error) {
	names, err := d.opts.files.ReadDir(d.opts.Meta)
	if err != nil || !slices.Contains(names, filepath.Base(d.spaceName())) {
		return false, err
	}
	f, err := d.opts.files.Open(d.spaceName())
	if err != nil {
		return false, err
	}
	size, err := f.Size()
	b := make([]byte, size)
	if err == nil {
		err = readFull(f, b, 0)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return false, diskError("read the map of free space", err)
	}
	at, used, err := decodeSpace(b, d.store)
	var version *versionError
	if errors.As(err, &version) {
		return false, err
	}
	ok := err == nil && at == last && d.applySpace(used)
	if err := d.opts.files.Remove(d.spaceName()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, diskError("remove the map of free space", err)
	}
	return ok, diskError("remove the map of free space", d.opts.files.SyncDir(d.opts.Meta))
}

func (d *Disk) applySpace(used map[diskID][]uint64) bool {
	for _, v := range d.volumes.all() {
		if len(used[v.id]) != 2*len(v.space.used) {
			return false
		}
	}
	for _, v := range d.volumes.all() {
		n := len(v.space.used)
		v.space.restore(used[v.id][:n], used[v.id][n:])
	}
	return true
}
