package objectstore

import (
	"encoding/binary"
	"fmt"

	"sheepdog"
)

// Keys of the metadata store. Numbers are big-endian so that the order of keys
// is the order of List.
//
//	f NAME                                     fact
//	m checkpoint|log|headers                   see checkpoint.go, headerlog.go
//	d DISK(2)                                  a disk's path and weight
//	g DISK(2)                                  empty; what was on the disk was given up
//	o PARTITION(2) FAMILY(8) INDEX(4) LAYER(8)           object header, a small map with it; in headers, not in Badger
//	c PARTITION(2) FAMILY(8) INDEX(4) LAYER(8) CHUNK(4)  chunk of a map
//	l LAYER(8) FAMILY(8) INDEX(4)              empty; objects by layer, of releases before
//	t PARTITION(2) FAMILY(8) INDEX(4) LAYER(8) tombstone: LSN(8) of the last drop
//	j, k                                       large commits, see kv.go
const (
	keyFact      = 'f'
	keyMeta      = 'm'
	keyDisk      = 'd'
	keyGivenUp   = 'g'
	keyObject    = 'o'
	keyChunk     = 'c'
	keyLayer     = 'l'
	keyTombstone = 't'

	diskKeyLen   = 1 + 2
	pileKeyLen   = 1 + 2 + 8 + 4
	objectKeyLen = pileKeyLen + 8
	chunkKeyLen  = objectKeyLen + 4
	layerKeyLen  = 1 + 8 + 8 + 4
)

func diskKey(kind byte, id diskID) []byte {
	return binary.BigEndian.AppendUint16([]byte{kind}, uint16(id))
}

func pileKey(kind byte, id sheepdog.ObjectID) []byte {
	return appendPileKey(make([]byte, 0, pileKeyLen), kind, id)
}

func appendPileKey(k []byte, kind byte, id sheepdog.ObjectID) []byte {
	k = append(k, kind)
	k = binary.BigEndian.AppendUint16(k, uint16(id.Partition()))
	k = binary.BigEndian.AppendUint64(k, uint64(id.Family))
	return binary.BigEndian.AppendUint32(k, uint32(id.Index))
}

func (k objectKey) encode(kind byte) []byte { return k.append(make([]byte, 0, chunkKeyLen), kind) }

func (k objectKey) append(b []byte, kind byte) []byte {
	return binary.BigEndian.AppendUint64(appendPileKey(b, kind, k.Object), uint64(k.Layer))
}

func chunkKey(k objectKey, no uint32) []byte {
	return appendChunkKey(make([]byte, 0, chunkKeyLen), k, no)
}

func appendChunkKey(b []byte, k objectKey, no uint32) []byte {
	return binary.BigEndian.AppendUint32(k.append(b, keyChunk), no)
}

// decodeObjectKey reads an object, tombstone or (but for its number) chunk key.
func decodeObjectKey(b []byte) (objectKey, error) {
	if len(b) < objectKeyLen {
		return objectKey{}, fmt.Errorf("key of %d bytes: want at least %d", len(b), objectKeyLen)
	}
	k := objectKey{
		Object: sheepdog.ObjectID{
			Family: sheepdog.FamilyID(binary.BigEndian.Uint64(b[3:])),
			Index:  sheepdog.Index(binary.BigEndian.Uint32(b[11:])),
		},
		Layer: sheepdog.LayerID(binary.BigEndian.Uint64(b[15:])),
	}
	if p := binary.BigEndian.Uint16(b[1:]); sheepdog.Partition(p) != k.Object.Partition() {
		return objectKey{}, fmt.Errorf("key of object %s is filed under partition %d", k.Object, p)
	}
	return k, nil
}

func decodeChunkKey(b []byte) (objectKey, uint32, error) {
	if len(b) != chunkKeyLen {
		return objectKey{}, 0, fmt.Errorf("chunk key of %d bytes: want %d", len(b), chunkKeyLen)
	}
	k, err := decodeObjectKey(b)
	return k, binary.BigEndian.Uint32(b[objectKeyLen:]), err
}
