package objectstore

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// metadata is the ordered key-value store behind the maps. A commit is atomic
// and durable when it returns. One file implements it on Badger.
type metadata interface {
	// Get returns a copy of a value, nil if the key is missing.
	Get(key []byte) ([]byte, error)
	// Scan visits the keys with a prefix in ascending order, from the first key
	// that is not below from, until visit returns false. Key and value are valid
	// during the visit only. Without values, value is nil.
	Scan(s scan, visit func(key, value []byte) (bool, error)) error
	// Commit applies changes together. It refuses more than MaxCommit allows.
	Commit(changes []change) error
	// Fits reports whether a commit of so many changes and bytes is allowed.
	Fits(changes, bytes int) bool
	// Room returns sheepdog.ErrNoSpace if commits of so many changes and bytes
	// together could fail for want of space. Ask before the first of them.
	Room(changes, bytes int) error
	// Verify reads all that is stored, and fails if something is not as it was written.
	Verify() error
	Size() uint64
	Close() error
}

// scan is a range of keys. Only the part of a prefix that is a prefix of every
// wanted key belongs in prefix.
type scan struct {
	prefix   []byte
	from     []byte // nil: from the first key with the prefix
	keysOnly bool
}

// change sets a key, or deletes it when value is nil.
type change struct {
	key   []byte
	value []byte
}

func (c *change) size() int { return len(c.key) + len(c.value) + 32 }

// commitAll applies changes in order, split into as few commits as fit.
func commitAll(kv metadata, changes []change) error {
	for len(changes) > 0 {
		n, bytes := 0, 0
		for n < len(changes) && (n == 0 || kv.Fits(n+1, bytes+changes[n].size())) {
			bytes += changes[n].size()
			n++
		}
		if err := kv.Commit(changes[:n]); err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// Keys of a large commit. An intent is one change; its key begins with one of
// these, so that all of them can be found and removed.
//
//	j NUMBER(8)  intent: deletes(1), length(4) of the key, key, value
//	k            the intents are complete and must be carried out
const keyIntent, keyDecided = 'j', 'k'

// commitLarge makes changes that do not fit into one commit as if they did:
// they are written down, then it is decided by one commit that they hold, then
// they are carried out. finishLarge does the rest after a crash.
func commitLarge(kv metadata, changes []change) error {
	intents := make([]change, len(changes))
	for i, c := range changes {
		intents[i] = c.intent(uint64(i))
	}
	if err := commitAll(kv, intents); err != nil {
		return err
	}
	if err := kv.Commit([]change{{key: []byte{keyDecided}, value: []byte{}}}); err != nil {
		return err
	}
	return carryOut(kv, changes)
}

func carryOut(kv metadata, changes []change) error {
	if err := commitAll(kv, changes); err != nil {
		return err
	}
	if err := kv.Commit([]change{{key: []byte{keyDecided}}}); err != nil {
		return err
	}
	return forgetIntents(kv, uint64(len(changes)))
}

func forgetIntents(kv metadata, n uint64) error {
	deletes := make([]change, n)
	for i := range deletes {
		deletes[i].key = intentKey(uint64(i))
	}
	return commitAll(kv, deletes)
}

// finishLarge carries out a large commit that a crash cut short after it was
// decided, and removes what is left of one that was not.
func finishLarge(kv metadata) error {
	decided, err := kv.Get([]byte{keyDecided})
	if err != nil {
		return err
	}
	var changes []change
	last := uint64(0)
	err = kv.Scan(scan{prefix: []byte{keyIntent}}, func(key, value []byte) (bool, error) {
		c, no, err := decodeIntent(key, value)
		changes, last = append(changes, c), no+1
		return err == nil, err
	})
	switch {
	case err != nil:
		return err
	case decided != nil:
		return carryOut(kv, changes)
	}
	return forgetIntents(kv, last)
}

func intentKey(no uint64) []byte { return binary.BigEndian.AppendUint64([]byte{keyIntent}, no) }

func (c *change) intent(no uint64) change {
	v := make([]byte, 5, 5+len(c.key)+len(c.value))
	if c.value == nil {
		v[0] = 1
	}
	binary.LittleEndian.PutUint32(v[1:], uint32(len(c.key)))
	v = append(v, c.key...)
	return change{key: intentKey(no), value: append(v, c.value...)}
}

func decodeIntent(key, value []byte) (change, uint64, error) {
	if len(key) != 9 || len(value) < 5 || value[0] > 1 || uint64(len(value)-5) < uint64(binary.LittleEndian.Uint32(value[1:])) {
		return change{}, 0, errors.New("intent of a large commit is malformed")
	}
	n := 5 + int(binary.LittleEndian.Uint32(value[1:]))
	c := change{key: bytes.Clone(value[5:n])}
	if value[0] == 0 {
		c.value = append([]byte{}, value[n:]...)
	}
	return c, binary.BigEndian.Uint64(key[1:]), nil
}
