package objectstore

import (
	"hash/crc32"

	"sheepdog"
)

// maxPrompt bounds what TryRead reads, and what a promptFile is asked for at a time, in
// blocks.
const maxPrompt = 16

// promptFile is a file that can tell what is in memory.
type promptFile interface {
	// TryReadAt fills p and returns true if that needs no disk.
	TryReadAt(p []byte, off int64) bool
	// TryGatherAt does so for pieces that follow each other in the file, maxPrompt of
	// them at most.
	TryGatherAt(pieces [][]byte, off int64) bool
}

// TryRead implements sheepdog.PromptEngine: maps and bytes must be in memory. Every
// block is verified; a bad one is left to Read, which tells which it is.
func (d *Disk) TryRead(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) bool {
	if count > maxPrompt || checkRead(start, count, len(buf), len(states)) != nil || d.begin() != nil {
		return false
	}
	defer d.end()
	side := d.guard.enter()
	defer side.RUnlock()
	var room [maxPrompt]slot
	slots := room[:count]
	if !d.tryResolve(obj, chain, start, slots) {
		return false
	}
	for i := range slots {
		states[i] = slots[i].state
	}
	for i := 0; i < len(slots); {
		if slots[i].state != sheepdog.Data {
			clear(buf[i*blockSize:][:blockSize])
			i++
			continue
		}
		n := rowLength(slots[i:])
		if !d.tryReadRow(slots[i].at, buf[i*blockSize:][:n*blockSize]) {
			return false
		}
		for ; n > 0; n-- {
			if crc32.Checksum(buf[i*blockSize:][:blockSize], castagnoli) != slots[i].crc {
				return false
			}
			i++
		}
	}
	return true
}

// tryResolve is resolve where the maps are in memory; out is clear.
func (d *Disk) tryResolve(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, out []slot) bool {
	if d.peek(obj, chain, start, out) {
		return true
	}
	p := d.cache.pin(obj)
	defer d.cache.unpin(p)
	if p.loaded.Load() {
		p.mu.RLock()
		found := p.look(chain, start, out)
		p.mu.RUnlock()
		if found {
			return true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return d.recall(p) == nil && p.unpackChain(chain, start, out)
}

// unpackChain is look, after what is packed of the range was unpacked; p is locked.
func (p *pile) unpackChain(chain []sheepdog.LayerID, start sheepdog.BlockNo, out []slot) bool {
	for _, layer := range chain {
		if o := p.find(layer); o != nil && !o.has(start, uint32(len(out))) && p.unpackRange(o, start, uint32(len(out))) != nil {
			return false
		}
	}
	clear(out)
	return p.look(chain, start, out)
}

func (d *Disk) tryReadRow(at place, buf []byte) bool {
	f, off := d.fileOf(at)
	prompt, ok := f.(promptFile)
	return ok && prompt.TryReadAt(buf, off)
}

// fileOf is the file of a place and the offset in it; nil if there is none.
func (d *Disk) fileOf(at place) (file, int64) {
	if at.inLog() {
		d.journal.mu.RLock()
		defer d.journal.mu.RUnlock()
		s := d.journal.live[at.generation()]
		if s == nil {
			return nil, 0
		}
		return s.f, at.segmentOffset()
	}
	v, err := d.volumes.volume(at.disk())
	if err != nil {
		return nil, 0
	}
	f, off, err := v.file(at.block())
	if err != nil {
		return nil, 0
	}
	return f.f, off
}
