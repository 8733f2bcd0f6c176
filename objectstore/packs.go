package objectstore

import (
	"encoding/binary"
	"math"
	"unsafe"

	"sheepdog"
	"sheepdog/internal/prefetch"
)

// packs is packed piles, one after the other in one piece of memory without pointers:
// of a large disk there are some hundred thousand, and the collector would look at
// each of them again and again. Each begins with what tells whose it is:
//
//	family(8) index(4) length bytes
//
// where length is a uvarint. They are found by a table, so that in a large one two lines of
// memory that are far away are enough: one of the table, and where the pile begins.
type packs struct {
	slots []packSlot // a power of two of them, at most half in use; empty until the first is put
	n     int        // in use
	hand  int        // where dropAny looks next
	bytes []byte
	dead  int // bytes of those that were dropped
}

// packSlot says where one begins, plus 1, and what its hash is; 0: free. A pile is in the
// first slot that was free from the one of its hash on.
type packSlot struct{ hash, from uint32 }

const (
	// packsSlack is how much of what was dropped stays, whatever else there is.
	packsSlack = 16 << 10
	packKeyLen = 8 + 4
	fewSlots   = 16
	// nearPacked is what is fetched of a packed pile, in bytes: most small ones.
	nearPacked = 2 * lineBytes
	// maxPacks bounds the bytes, so that a slot can tell each place in them.
	maxPacks = math.MaxUint32 - 1<<20
)

func packHash(id sheepdog.ObjectID) uint32 {
	return uint32(mix64(mix64(uint64(id.Family)) + uint64(id.Index)))
}

// put adds a pile that is not there, if there can be another.
func (p *packs) put(id sheepdog.ObjectID, b []byte) (added bool) {
	if len(p.bytes) > maxPacks {
		return false
	}
	if 2*(p.n+1) > len(p.slots) {
		p.grow()
	}
	p.link(packSlot{packHash(id), uint32(len(p.bytes)) + 1})
	p.n++
	p.bytes = binary.LittleEndian.AppendUint64(p.bytes, uint64(id.Family))
	p.bytes = binary.LittleEndian.AppendUint32(p.bytes, uint32(id.Index))
	p.bytes = binary.AppendUvarint(p.bytes, uint64(len(b)))
	p.bytes = append(p.bytes, b...)
	return true
}

// link puts a slot where it is found.
func (p *packs) link(s packSlot) {
	at := int(s.hash) & (len(p.slots) - 1)
	for p.slots[at].from != 0 {
		at = (at + 1) & (len(p.slots) - 1)
	}
	p.slots[at] = s
}

func (p *packs) grow() {
	old := p.slots
	p.slots, p.hand = make([]packSlot, max(fewSlots, 2*len(old))), 0
	for _, s := range old {
		if s.from != 0 {
			p.link(s)
		}
	}
}

// find is the slot of a pile, -1 if it is not there.
func (p *packs) find(id sheepdog.ObjectID) int {
	if p.n == 0 {
		return -1
	}
	hash := packHash(id)
	for at := int(hash) & (len(p.slots) - 1); p.slots[at].from != 0; at = (at + 1) & (len(p.slots) - 1) {
		if s := p.slots[at]; s.hash == hash {
			k := p.bytes[s.from-1:]
			if binary.LittleEndian.Uint64(k) == uint64(id.Family) && binary.LittleEndian.Uint32(k[8:]) == uint32(id.Index) {
				return at
			}
		}
	}
	return -1
}

// extent is where the bytes of a slot are, and where they end.
func (p *packs) extent(s packSlot) (from, to int) {
	at := int(s.from) - 1 + packKeyLen
	n, width := binary.Uvarint(p.bytes[at:])
	from = at + width
	return from, from + int(n)
}

// get is the bytes of a pile; nil if it is not there. They never change, and keep all
// that was there in memory as long as they are used.
func (p *packs) get(id sheepdog.ObjectID) []byte {
	at := p.find(id)
	if at < 0 {
		return nil
	}
	return p.bytesAt(at)
}

// bytesAt is get for the pile of a slot.
func (p *packs) bytesAt(at int) []byte {
	from, to := p.extent(p.slots[at])
	return p.bytes[from:to:to]
}

// each visits all piles, in no order.
func (p *packs) each(visit func(id sheepdog.ObjectID, b []byte) bool) {
	for at, s := range p.slots {
		if s.from == 0 {
			continue
		}
		k := p.bytes[s.from-1:]
		id := sheepdog.ObjectID{Family: sheepdog.FamilyID(binary.LittleEndian.Uint64(k)), Index: sheepdog.Index(binary.LittleEndian.Uint32(k[8:]))}
		if !visit(id, p.bytesAt(at)) {
			return
		}
	}
}

// nearSlot has the slot fetched in which a pile is, if nothing was in its way.
func (p *packs) nearSlot(id sheepdog.ObjectID) {
	if p.n > 0 {
		prefetch.Line(unsafe.Pointer(&p.slots[int(packHash(id))&(len(p.slots)-1)]))
	}
}

// nearBytes has the bytes fetched to which that slot leads.
func (p *packs) nearBytes(id sheepdog.ObjectID) {
	if p.n == 0 {
		return
	}
	s := p.slots[int(packHash(id))&(len(p.slots)-1)]
	for at := int(s.from) - 1; s.from != 0 && at < min(int(s.from)+nearPacked, len(p.bytes)); at += lineBytes {
		prefetch.Line(unsafe.Pointer(&p.bytes[at]))
	}
}

// dropAny forgets one, no matter which; false if there is none.
func (p *packs) dropAny() (n int, ok bool) {
	if p.n == 0 {
		return 0, false
	}
	for p.slots[p.hand].from == 0 {
		p.hand = (p.hand + 1) & (len(p.slots) - 1)
	}
	return p.dropAt(p.hand), true
}

// dropAt forgets the pile of a slot, and returns the length of its bytes.
func (p *packs) dropAt(at int) int {
	from, to := p.extent(p.slots[at])
	p.dead += to - int(p.slots[at].from) + 1
	p.unlink(at)
	p.n--
	if p.dead > packsSlack && p.dead > len(p.bytes)/2 {
		p.compact()
	}
	return to - from
}

// unlink frees a slot, and has those after it found that would not be any more.
func (p *packs) unlink(free int) {
	mask := len(p.slots) - 1
	for at := (free + 1) & mask; p.slots[at].from != 0; at = (at + 1) & mask {
		if home := int(p.slots[at].hash) & mask; (at-home)&mask >= (at-free)&mask {
			p.slots[free], free = p.slots[at], at
		}
	}
	p.slots[free] = packSlot{}
}

// compact leaves out what was dropped. Whoever got bytes before keeps the old ones.
func (p *packs) compact() {
	live := len(p.bytes) - p.dead
	old := p.bytes
	bytes := make([]byte, 0, live+live/4)
	for i := range p.slots {
		if s := &p.slots[i]; s.from != 0 {
			_, to := p.extent(*s)
			begin := int(s.from) - 1
			s.from = uint32(len(bytes)) + 1
			bytes = append(bytes, old[begin:to]...)
		}
	}
	p.bytes, p.dead = bytes, 0
}
