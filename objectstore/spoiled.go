package objectstore

import (
	"errors"
	"fmt"
	"sync"

	"sheepdog"
)

// errMalformed is of a map or a header that cannot be read though its bytes are those that
// were written, or that has no checksum. Other objects are none the worse for it.
var errMalformed = errors.New("a map is malformed")

// mapError makes an error of decoding a map ours; a map of another version is not
// malformed.
func mapError(err error) error {
	var version *versionError
	if err == nil || errors.As(err, &version) {
		return err
	}
	return fmt.Errorf("%w: %w: %w", errMalformed, sheepdog.ErrIO, err)
}

// spoiled are objects of which a map is malformed. Nobody can tell what they hold, so
// nothing short of all of it can be replaced: they have to be dropped, where this replica
// does not count, and fetched from another one.
type spoiled struct {
	mu   sync.Mutex
	keys map[objectKey]bool
	more chan struct{} // closed when one is added
}

// add is false if the object was known.
func (s *spoiled) add(k objectKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[k] {
		return false
	}
	s.keys[k] = true
	close(s.more)
	s.more = make(chan struct{})
	return true
}

func (s *spoiled) has(k objectKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[k]
}

func (s *spoiled) forget(k objectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, k)
}

// Spoiled implements sheepdog.SpoiledEngine.
func (d *Disk) Spoiled() ([]sheepdog.ListEntry, <-chan struct{}) {
	s := &d.spoiled
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]sheepdog.ListEntry, 0, len(s.keys))
	for k := range s.keys {
		out = append(out, sheepdog.ListEntry{Object: k.Object, Layer: k.Layer})
	}
	return out, s.more
}

// judgeMap notes an object of which a map is malformed, if that is what the error says.
func (d *Disk) judgeMap(k objectKey, err error) {
	if errors.Is(err, errMalformed) && d.spoiled.add(k) {
		d.log.Error("object is spoiled", "object", k.Object, "layer", k.Layer, "error", err)
	}
}

// readHeader is decodeHeader. In place of a header that is malformed it has that of an
// object which is there, and of whose map every part is malformed: so the object is in all
// lists, and can be neither read nor changed, but dropped.
func readHeader(k objectKey, value []byte) (header, rest, error) {
	h, maps, err := decodeHeader(value)
	if err == nil {
		return h, maps, nil
	}
	err = fmt.Errorf("header of object %s layer %x: %w", k.Object, uint64(k.Layer), mapError(err))
	if !errors.Is(err, errMalformed) {
		return header{}, rest{}, err
	}
	h, maps = header{present: 1, malformed: err}, rest{}
	for no := range uint32(MaxObjectBlocks / chunkBlocks) {
		maps.packed = appendPacked(maps.packed, no, []byte{chunkVersion}) // and nothing else
	}
	return h, maps, nil
}

// loadSound makes an object complete that is to be dropped, with nothing in place of maps
// that are malformed; p is locked. The space that those had in use comes back when the
// maps are scanned, after the next crash.
func (d *Disk) loadSound(p *pile, o *object) error {
	for no, value := range o.rest.each {
		if err := p.addSound(o, no, value); err != nil {
			return err
		}
	}
	if err := d.loadStored(p, o, p.addSound); err != nil {
		return err
	}
	o.rest, o.complete = rest{}, true
	o.recount()
	d.spoiled.forget(o.key)
	return nil
}

// addSound is addChunk with an empty chunk in place of a malformed one.
func (p *pile) addSound(o *object, no uint32, value []byte) error {
	err := p.addChunk(o, no, value)
	if !errors.Is(err, errMalformed) {
		return err
	}
	o.chunks.put(no, &chunk{stored: !o.inHead})
	p.bytes.Add(bareChunkBytes)
	return nil
}
