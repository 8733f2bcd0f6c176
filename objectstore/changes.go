package objectstore

// changer lists what snapshots change in the metadata store.
type changer struct {
	list slab[change]
	// bytes has keys and values, which are made in b; maps is that of an object.
	bytes   slab[byte]
	b, maps []byte
	changes []change // of the snapshot at hand
}

// of lists what a snapshot changes. That must be committed at once: replay
// relies on a merge being in the metadata store as a whole or not at all.
func (l *changer) of(s *savedPile) []change {
	l.changes = l.changes[:0]
	for i := range s.objects {
		so := &s.objects[i]
		l.maps = l.maps[:0]
		for j := range so.chunks {
			c := &so.chunks[j]
			switch value := c.encode(); {
			case value != nil && !so.inHead:
				l.add(l.chunkKey(so, c), value)
				continue
			case value != nil:
				l.maps = appendPacked(l.maps, c.no, value)
			}
			if c.stored {
				l.add(l.chunkKey(so, c), nil)
			}
		}
		l.header(so)
	}
	for _, t := range s.tombstones() {
		l.changes = append(l.changes, t.change())
	}
	return l.list.keep(l.changes)
}

// header lists the changes of an object's header, with its map if that goes there.
func (l *changer) header(so *savedObject) {
	l.b = so.o.key.append(l.b[:0], keyObject)
	key := l.bytes.keep(l.b)
	if so.header.present == 0 {
		l.add(key, nil)
		return
	}
	if so.inHead {
		l.b = so.header.appendWithMap(l.b[:0], l.maps)
	} else {
		l.b = so.header.append(l.b[:0])
	}
	l.add(key, l.bytes.keep(l.b))
}

func (l *changer) add(key, value []byte) {
	l.changes = append(l.changes, change{key: key, value: value})
}

func (l *changer) chunkKey(so *savedObject, c *savedChunk) []byte {
	l.b = appendChunkKey(l.b[:0], so.o.key, c.no)
	return l.bytes.keep(l.b)
}
