package objectstore

import (
	"encoding/binary"

	"sheepdog"
)

// packs is packed piles, one after the other in one piece of memory without pointers:
// of a large disk there are some hundred thousand, and the collector would look at
// each of them again and again.
type packs struct {
	at    map[sheepdog.ObjectID]int // where the length of one begins in bytes
	bytes []byte
	dead  int // bytes of those that were dropped
}

// packsSlack is how much of what was dropped stays, whatever else there is.
const packsSlack = 16 << 10

// put adds a pile that is not there.
func (p *packs) put(id sheepdog.ObjectID, b []byte) {
	p.at[id] = len(p.bytes)
	p.bytes = binary.AppendUvarint(p.bytes, uint64(len(b)))
	p.bytes = append(p.bytes, b...)
}

// get is the bytes of a pile; nil if it is not there. They never change, and keep all
// that was there in memory as long as they are used.
func (p *packs) get(id sheepdog.ObjectID) []byte {
	at, ok := p.at[id]
	if !ok {
		return nil
	}
	n, width := binary.Uvarint(p.bytes[at:])
	from := at + width
	return p.bytes[from : from+int(n) : from+int(n)]
}

// drop forgets a pile that is there, and returns the length of its bytes.
func (p *packs) drop(id sheepdog.ObjectID) int {
	at := p.at[id]
	n, width := binary.Uvarint(p.bytes[at:])
	delete(p.at, id)
	if p.dead += width + int(n); p.dead > packsSlack && p.dead > len(p.bytes)/2 {
		p.compact()
	}
	return int(n)
}

// compact leaves out what was dropped. Whoever got bytes before keeps the old ones.
func (p *packs) compact() {
	live := len(p.bytes) - p.dead
	old := packs{at: p.at, bytes: p.bytes}
	p.bytes, p.dead = make([]byte, 0, live+live/4), 0
	for id := range p.at {
		p.put(id, old.get(id))
	}
}
