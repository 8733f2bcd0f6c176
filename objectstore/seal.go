package objectstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"sheepdog"
)

// sealed is a metadata store whose block maps, and the object headers that releases before
// kept there, carry a checksum of key and value: what lies under it verifies nothing, and a map with a flipped bit
// has blocks that were never written, or none where there are some, or a stamp that
// no write gets past.
//
// A sealed value has sealBit in its first byte, which is a version, and the checksum
// (4) at its end. Values without the bit are of releases that did not seal.
type sealed struct {
	metadata
	damaged func(error) // takes the store out of service
}

const (
	sealBit = 0x80
	sealLen = 4
)

// isSealed reports whether values of the key are.
func isSealed(key []byte) bool { return len(key) > 0 && (key[0] == keyObject || key[0] == keyChunk) }

func sealOf(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// seal appends the value as it is stored.
func seal(b, key, value []byte) []byte {
	from := len(b)
	b = append(b, value...)
	b[from] |= sealBit
	return binary.LittleEndian.AppendUint32(b, sealOf(key, b[from:]))
}

// unseal returns a value as it was given. It may change the slice.
func unseal(key, value []byte) ([]byte, error) {
	if len(value) == 0 || value[0]&sealBit == 0 {
		return value, nil
	}
	n := len(value) - sealLen
	if n < 1 || sealOf(key, value[:n]) != binary.LittleEndian.Uint32(value[n:]) {
		return nil, fmt.Errorf("entry %x of the metadata: %w: %w", key, errBadCRC, sheepdog.ErrIO)
	}
	value = value[:n:n]
	value[0] &^= sealBit
	return value, nil
}

func (s sealed) Get(key []byte) ([]byte, error) {
	value, err := s.metadata.Get(key)
	if err != nil || !isSealed(key) {
		return value, err
	}
	value, err = unseal(key, value)
	return value, s.judge(err)
}

func (s sealed) Scan(what scan, visit func(key, value []byte) (bool, error)) error {
	if what.keysOnly || !isSealed(what.prefix) {
		return s.metadata.Scan(what, visit)
	}
	var buf []byte
	return s.metadata.Scan(what, func(key, value []byte) (bool, error) {
		buf = append(buf[:0], value...) // the visit may not change what is not its own
		value, err := unseal(key, buf)
		if err != nil {
			return false, s.judge(err)
		}
		return visit(key, value)
	})
}

func (s sealed) Commit(changes []change) error {
	out := make([]change, len(changes))
	room := 0
	for i := range changes {
		room += len(changes[i].value) + sealLen
	}
	all := make([]byte, 0, room) // sealed values
	for i, c := range changes {
		if out[i] = c; len(c.value) > 0 && isSealed(c.key) {
			from := len(all)
			all = seal(all, c.key, c.value)
			out[i].value = all[from:len(all):len(all)]
		}
	}
	return s.metadata.Commit(out)
}

// judge ends the store if an entry is damaged: what else is, nobody knows.
func (s sealed) judge(err error) error {
	if err != nil {
		s.damaged(err)
	}
	return err
}
