package peer

import (
	"fmt"
	"io"

	"sheepdog"
)

// watched is the source of a connection's bytes; it tells liveness of them.
type watched struct {
	src  io.Reader
	live *liveness
}

func (w watched) Read(p []byte) (int, error) {
	w.live.resting()
	n, err := w.src.Read(p)
	w.live.working()
	return n, err
}

// read handles replies until the connection ends, and tells why it did.
func (l *link) read() error {
	need := headerSize
	for {
		err := l.in.ensure(need)
		if err != nil {
			return err
		}
		if need, err = l.buffered(); err != nil {
			return err
		}
	}
}

// buffered handles the frames that are in the buffer. It returns how many bytes
// have to be there for the next step. What the replies' callbacks send leaves
// together.
func (l *link) buffered() (need int, err error) {
	l.out.cork()
	defer l.out.uncork()
	for {
		b := l.in.unread()
		if len(b) < headerSize {
			return headerSize, nil
		}
		h, err := decodeHeader(b)
		if err != nil {
			return 0, err
		}
		if len(b) < h.size() {
			return l.longFrame(h)
		}
		meta := b[headerSize : headerSize+int(h.meta)]
		if err := l.frame(h, meta, b[headerSize+len(meta):h.size()]); err != nil {
			return 0, err
		}
		l.in.skip(h.size())
	}
}

// longFrame decides what to wait for where a frame is not complete. The data of
// a long reply are read straight to where they belong.
func (l *link) longFrame(h header) (need int, err error) {
	if h.data < bulkSize || h.flags&^flagRaw != 0 {
		return h.size(), nil
	}
	if need := headerSize + int(h.meta); len(l.in.unread()) < need {
		return need, nil
	}
	l.out.uncork() // this waits for the far end
	defer l.out.cork()
	return headerSize, l.direct(h)
}

// direct reads a reply whose header and meta are in the buffer.
func (l *link) direct(h header) error {
	meta := l.in.unread()[headerSize : headerSize+int(h.meta)]
	if err := h.checkMeta(meta); err != nil {
		return err
	}
	c := l.claim(h.id)
	if c == nil {
		l.in.skip(headerSize + int(h.meta))
		return l.discard(int(h.data))
	}
	if c.part != nil {
		meta = append(c.part, meta...)
	}
	vec, err := c.ranges(h, meta, int(h.data), l.vec[:0])
	if err != nil {
		return err
	}
	l.in.skip(headerSize + int(h.meta))
	crc, raw := uint32(0), h.flags&flagRaw != 0
	for _, dst := range vec {
		if err := l.in.readInto(dst); err != nil {
			return err
		}
		if !raw {
			crc = updateChecksum(crc, dst)
		}
	}
	if !raw && crc != h.dataCRC {
		return fmt.Errorf("%w: data of %s do not match their checksum", errGarbled, h.kind)
	}
	clear(vec)
	l.vec = vec[:0]
	l.complete(h.id, nil)
	return nil
}

// discard reads n bytes that nobody wants any more.
func (l *link) discard(n int) error {
	c := l.in.pool.get(bulkSize)
	defer c.release()
	for n > 0 {
		part := c.b[:min(n, len(c.b))]
		if err := l.in.readInto(part); err != nil {
			return err
		}
		n -= len(part)
	}
	return nil
}

// frame handles a complete frame.
func (l *link) frame(h header, meta, data []byte) error {
	if h.kind == kindPing {
		return nil
	}
	if h.kind&kindReply == 0 {
		return fmt.Errorf("%w: %s from a server", errGarbled, h.kind)
	}
	if err := h.checkMeta(meta); err != nil {
		return err
	}
	if err := h.checkData(data); err != nil {
		return err
	}
	if h.flags&flagError != 0 {
		err, ok := decodeError(meta)
		if !ok {
			return fmt.Errorf("%w: error reply", errGarbled)
		}
		l.complete(h.id, err)
		return nil
	}
	if h.kind == kindWrite|kindReply {
		l.complete(h.id, nil)
		return nil
	}
	if h.kind == kindFlush|kindReply && l.isStarted(h.id) {
		if len(meta)+len(data) > 0 {
			return fmt.Errorf("%w: a flush is answered with data", errGarbled)
		}
		l.complete(h.id, nil)
		return nil
	}
	return l.answer(h, meta, data)
}

// answer gives a good reply to the call that waits for it, if one does.
func (l *link) answer(h header, meta, data []byte) error {
	c := l.claim(h.id)
	if c == nil {
		return nil
	}
	if h.flags&flagMore != 0 || c.part != nil {
		if len(c.part)+len(meta) > maxReply {
			return fmt.Errorf("%w: %s in too many parts", errGarbled, h.kind)
		}
		c.part = append(c.part, meta...)
		meta = c.part
	}
	if h.flags&flagMore != 0 {
		l.unclaim(h.id)
		return nil
	}
	vec, err := c.ranges(h, meta, len(data), l.vec[:0])
	if err != nil {
		return err
	}
	for _, dst := range vec {
		data = data[copy(dst, data):]
	}
	clear(vec)
	l.vec = vec[:0]
	l.complete(h.id, nil)
	return nil
}

// ranges asks the sink and checks that what it wants is what there is.
func (c *call) ranges(h header, meta []byte, size int, dst [][]byte) ([][]byte, error) {
	if h.flags&flagRaw != 0 {
		r, ok := c.sink.(rawSink)
		if !ok || !r.raw() {
			return nil, fmt.Errorf("%w: raw data that nobody asked for", errGarbled)
		}
	}
	vec, err := c.sink.ranges(meta, size, dst)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGarbled, err)
	}
	want := 0
	for _, v := range vec {
		want += len(v)
	}
	if want != size {
		return nil, fmt.Errorf("%w: reply has %d bytes of data for %d", errGarbled, size, want)
	}
	return vec, nil
}

// unclaim lets the caller give up again.
func (l *link) unclaim(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.find(id); s != nil {
		s.state = slotWaiting
	}
}

// complete ends a request; a late or unknown one is nobody's.
func (l *link) complete(id uint64, err error) {
	if s, ok := l.take(id); ok {
		s.end(err)
	}
}

func (s *slot) end(err error) {
	if s.call != nil {
		s.call.err = err
		s.call.done <- struct{}{}
		return
	}
	s.done(s.index, err)
	if s.writes != nil {
		s.writes.release()
	}
}

// end completes everything that is pending. No memory of a caller is used
// afterwards. The connection's writer goroutine has to be waited for then.
func (l *link) end(cause error) *BrokenError {
	l.out.close(cause)
	l.out.finish()
	close(l.out.stop)
	l.in.close()
	broken := l.broken(l.out.reason())
	l.mu.Lock()
	l.dead = broken
	slots := l.slots
	l.slots, l.free, l.pending = nil, nil, 0
	l.mu.Unlock()
	for i := range slots {
		if slots[i].state != slotFree {
			slots[i].end(broken)
		}
	}
	return broken
}

// tick sends a heartbeat if one is due, and gives up a peer that is gone.
func (l *link) tick() {
	tick(l.out, l.live)
}

func tick(out *outQueue, live *liveness) {
	due, err := live.tick(out.state())
	if err != nil {
		out.close(err)
	} else if due {
		_ = out.put(&frame{kind: kindPing})
	}
}

// agree is the cluster id of a connection: none unless both ends have one.
func agree(a, b sheepdog.ClusterID) (sheepdog.ClusterID, error) {
	if a.IsZero() || b.IsZero() {
		return sheepdog.ClusterID{}, nil
	}
	if a != b {
		return sheepdog.ClusterID{}, wrongCluster(b, a)
	}
	return a, nil
}
