package objectstore

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
