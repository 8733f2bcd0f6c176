package objectstore

import (
	"bytes"
	"slices"
)

// openHeaders reads the headers that a log in the directory has, and takes over those that
// are in the store below, where releases before kept them. The store below is closed with
// what is returned, or if there is an error.
func openHeaders(below metadata, l headerLogOptions) (*headers, error) {
	h := &headers{metadata: below, inventory: newInventory()}
	h.log.fs, h.log.dir, h.log.store, h.log.noSync, h.log.slack = l.fs, l.dir, l.store, l.noSync, l.slack
	err := h.load()
	if err == nil {
		err = h.takeOver()
	}
	return h, err
}

// headerLogOptions say where the log is, and how it is kept; see headerLog.
type headerLogOptions struct {
	fs     fileSystem
	dir    string
	store  uint64
	noSync bool
	slack  int64
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

// takeOverEntries is how many headers are taken over at once.
const takeOverEntries = 1000

// takeOver moves the headers of the store below to the log, and removes the list of objects by
// layer that was there. A crash leaves each header in one of the two.
func (h *headers) takeOver() error {
	if err := h.takeOverHeaders(); err != nil {
		return err
	}
	for {
		var deletes []change
		err := h.metadata.Scan(scan{prefix: []byte{keyLayer}, keysOnly: true}, func(key, _ []byte) (bool, error) {
			deletes = append(deletes, change{key: bytes.Clone(key)})
			return h.Fits(len(deletes)+1, len(deletes)*(layerKeyLen+32)), nil
		})
		if err == nil && len(deletes) > 0 {
			err = h.metadata.Room(len(deletes), len(deletes)*(layerKeyLen+32))
		}
		if err != nil || len(deletes) == 0 {
			return err
		}
		if err := h.metadata.Commit(deletes); err != nil {
			return err
		}
	}
}

func (h *headers) takeOverHeaders() error {
	for {
		var adds, deletes []change
		size, err := 0, error(nil)
		err = h.metadata.Scan(scan{prefix: []byte{keyObject}}, func(key, value []byte) (bool, error) {
			c := change{bytes.Clone(key), bytes.Clone(value)}
			adds, deletes = append(adds, c), append(deletes, change{key: c.key})
			size += c.size()
			return len(adds) < takeOverEntries && h.Fits(len(adds)+1, size), nil
		})
		if err != nil || len(adds) == 0 {
			return err
		}
		if err := h.Room(len(adds), size); err != nil {
			return err
		}
		if err := h.move(adds, deletes); err != nil {
			return err
		}
	}
}

// move commits headers together with changes of the store below.
func (h *headers) move(adds, below []change) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	mine, _, err := splitChanges(adds)
	if err == nil {
		err = h.commit(mine, below)
	}
	return err
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
