package peer

import "io"

// startBuffer is how many bytes a connection reads at once; compactBelow is at
// how little free room it moves the unread bytes to the front. The room of a long
// message is kept until so many reads, quietReads, were for none.
const (
	startBuffer  = 256 << 10
	compactBelow = 32 << 10
	quietReads   = 8
)

// front is where in a chunk its first message begins: so the data of a write that is the
// first begin with a page of memory, from where they are copied faster.
const front = 4096 - headerSize - writeSize

// inBuffer is the receiving side of a connection: a chunk with unread bytes in
// [r,w). Messages are parsed in place. Whoever keeps bytes of the chunk beyond
// the next fill holds the chunk; fill then leaves it alone and takes another.
type inBuffer struct {
	src   io.Reader
	pool  *buffers
	chunk *chunk
	r, w  int
	quiet int // reads since the last for a long message
}

func newInBuffer(src io.Reader, pool *buffers) inBuffer {
	return inBuffer{src: src, pool: pool, chunk: pool.get(startBuffer), r: front, w: front}
}

func (b *inBuffer) unread() []byte { return b.chunk.b[b.r:b.w] }
func (b *inBuffer) skip(n int)     { b.r += n }

// fill reads once. need is how many unread bytes the caller wants in the end,
// at most maxFrame: the room for them is made. Of a long message no more than
// itself is read, so that the next begins in front.
func (b *inBuffer) fill(need int) error {
	if b.quiet++; need > bulkSize {
		b.quiet = 0
	}
	b.makeRoom(need)
	dst := b.chunk.b[b.w:]
	if have := b.w - b.r; need > bulkSize {
		dst = dst[:need-have]
	}
	n, err := b.src.Read(dst)
	b.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (b *inBuffer) makeRoom(need int) {
	held := b.chunk.holds.Load() > 1
	long := len(b.chunk.b) > 4*startBuffer
	shrink := b.r == b.w && long && b.quiet > quietReads
	switch {
	case held, shrink, need > len(b.chunk.b)-front:
		size := max(need+front, startBuffer)
		if long && b.quiet <= quietReads { // the next message may be as long, and is not to be moved then
			size = max(size, len(b.chunk.b))
		}
		next := b.pool.get(size)
		b.w = front + copy(next.b[front:], b.unread())
		b.r = front
		b.chunk.release()
		b.chunk = next
	case b.r == b.w:
		b.r, b.w = front, front
	case b.r+need > len(b.chunk.b), b.r > front && len(b.chunk.b)-b.w < compactBelow:
		b.w = front + copy(b.chunk.b[front:], b.unread())
		b.r = front
	}
}

// ensure reads until n bytes are unread.
func (b *inBuffer) ensure(n int) error {
	for b.w-b.r < n {
		if err := b.fill(n); err != nil {
			return err
		}
	}
	return nil
}

// readInto fills dst with the next bytes, past the buffer where they are not
// there yet.
func (b *inBuffer) readInto(dst []byte) error {
	n := copy(dst, b.unread())
	b.skip(n)
	_, err := io.ReadFull(b.src, dst[n:])
	return err
}

func (b *inBuffer) close() {
	b.chunk.release()
	b.chunk = nil
}
