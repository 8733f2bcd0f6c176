package objectstore

import (
	"bytes"
	"fmt"
	"slices"
)

// openHeaders reads the headers that a log in the directory has, and takes over those that
// are in the store below, where releases before kept them. Closing what is returned closes the
// store below, also after an error.
func openHeaders(below metadata, l headerLogOptions) (*headers, error) {
	h := &headers{metadata: below, inventory: newInventory(), log: headerLog{headerLogOptions: l}}
	err := h.load()
	if err == nil {
		err = h.takeOver()
	}
	return h, err
}

func (h *headers) load() error {
	b, err := h.metadata.Get(headerMarkKey)
	if err != nil {
		return err
	}
	var m headerMark
	if b != nil {
		if m, err = decodeHeaderMark(b); err != nil {
			return err
		}
	}
	if err := h.log.open(m); err != nil {
		return err
	}
	var scratch []byte
	err = h.log.each(h.log.files, func(k objectKey, header []byte) {
		if len(header) == 0 {
			header = nil
		}
		h.set(k, header, &scratch)
	})
	h.logged.Store(h.log.size())
	return err
}

// takeOverEntries is how many entries are taken over at once.
const takeOverEntries = 1000

// takeOver moves the headers of the store below to the log, and removes the list of objects by
// layer that was there. A crash leaves each header in one of the two.
func (h *headers) takeOver() error {
	for _, kind := range []byte{keyObject, keyLayer} {
		for more := true; more; {
			var err error
			if more, err = h.takeOverSome(kind); err != nil {
				return fmt.Errorf("take them over from where releases before had them: %w", err)
			}
		}
	}
	return nil
}

// takeOverSome takes over some entries of a kind, if there are any.
func (h *headers) takeOverSome(kind byte) (more bool, err error) {
	var mine []headerChange
	var deletes []change
	size := 0
	err = h.metadata.Scan(scan{prefix: []byte{kind}}, func(key, value []byte) (bool, error) {
		c := change{key: bytes.Clone(key)}
		deletes = append(deletes, c)
		size += c.size() + len(value)
		if kind == keyObject {
			k, err := decodeObjectKey(c.key)
			if err != nil {
				return false, err
			}
			mine = append(mine, headerChange{k, bytes.Clone(value)})
		}
		return len(deletes) < takeOverEntries && h.Fits(len(deletes)+1, size), nil
	})
	if err == nil && len(deletes) > 0 {
		err = h.Room(len(deletes), size)
	}
	if err != nil || len(deletes) == 0 {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return true, h.commit(mine, deletes)
}

// Verify implements metadata: it reads the log again.
func (h *headers) Verify() error {
	if err := h.metadata.Verify(); err != nil {
		return err
	}
	h.log.reading.Lock()
	defer h.log.reading.Unlock()
	h.mu.Lock()
	files := slices.Clone(h.log.files)
	h.mu.Unlock()
	return h.log.each(files, func(objectKey, []byte) {})
}
