package objectstore

import (
	"bytes"
	"slices"
	"sync"
)

// fakeMeta is a metadata store in memory that survives Close: each commit is
// atomic and durable at once. It allows small commits only, so that large piles
// are torn.
type fakeMeta struct {
	mu         sync.Mutex
	values     map[string][]byte
	maxChanges int
	fault      func() error // asked before every commit
	rotten     error        // what Verify finds
}

func newFakeMeta() *fakeMeta { return &fakeMeta{values: make(map[string][]byte), maxChanges: 12} }

func openFakeMeta(string, metaOptions) (metadata, error) { return newFakeMeta(), nil }

func (m *fakeMeta) open(string, metaOptions) (metadata, error) { return m, nil }

func (m *fakeMeta) Get(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.values[string(key)]), nil
}

func (m *fakeMeta) Scan(s scan, visit func(key, value []byte) (bool, error)) error {
	m.mu.Lock()
	var keys []string
	for k := range m.values {
		if bytes.HasPrefix([]byte(k), s.prefix) && bytes.Compare([]byte(k), s.from) >= 0 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = m.values[k]
	}
	m.mu.Unlock()
	for i, k := range keys {
		if more, err := visit([]byte(k), values[i]); err != nil || !more {
			return err
		}
	}
	return nil
}

func (m *fakeMeta) Commit(changes []change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault != nil {
		if err := m.fault(); err != nil {
			return err
		}
	}
	if !m.Fits(len(changes), 0) {
		panic("a commit is too large")
	}
	for _, c := range changes {
		if c.value == nil {
			delete(m.values, string(c.key))
		} else {
			m.values[string(c.key)] = append([]byte{}, c.value...)
		}
	}
	return nil
}

func (m *fakeMeta) Fits(changes, bytes int) bool { return changes <= m.maxChanges }
func (m *fakeMeta) Room(int, int) error          { return nil }
func (m *fakeMeta) Size() uint64                 { return 0 }
func (m *fakeMeta) Verify() error                { return m.rotten }
func (m *fakeMeta) Close() error                 { return nil }
