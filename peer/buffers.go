package peer

import (
	"sync"
	"sync/atomic"

	"sheepdog/internal/hugepage"
)

// Buffer sizes in bytes: a power of two of data and room for headers beside it: those
// of 16 writes of a block each in 64 KiB, of 64 in 256 KiB, besides what an inBuffer leaves
// in front.
const (
	bufferSlack = 4 << 10
	minBuffer   = 4<<10 + bufferSlack
	moreSlack   = 16 << 10
)

// buffers keeps buffers for reuse, a pool per size class.
type buffers struct {
	classes [6]sync.Pool
}

// classSize tells the size of a class: 8 KiB, 68 KiB, 272 KiB, 1 MiB, 4 MiB and the
// largest frame, with their slack.
func classSize(class int) int {
	sizes := [6]int{minBuffer, 64<<10 + bufferSlack, 256<<10 + moreSlack, 1<<20 + moreSlack, 4<<20 + moreSlack, maxFrame + moreSlack}
	return sizes[class]
}

// chunk is a buffer that goes back to its pool when the last holder releases it.
type chunk struct {
	b     []byte
	class int
	holds atomic.Int32
	home  *buffers
}

// get returns a chunk of at least n bytes (at most a frame and its slack) with one holder.
// Its content is arbitrary.
func (p *buffers) get(n int) *chunk {
	class := 0
	for classSize(class) < n {
		class++
	}
	c, _ := p.classes[class].Get().(*chunk)
	if c == nil {
		c = p.make(class)
	}
	c.holds.Store(1)
	return c
}

// make makes a chunk, and others for later where memory is made for several.
func (p *buffers) make(class int) *chunk {
	all := hugepage.Alloc(classSize(class))
	for _, b := range all[1:] {
		p.classes[class].Put(&chunk{b: b, class: class, home: p})
	}
	return &chunk{b: all[0], class: class, home: p}
}

func (c *chunk) hold() { c.holds.Add(1) }

func (c *chunk) release() {
	switch n := c.holds.Add(-1); {
	case n == 0:
		c.home.classes[c.class].Put(c)
	case n < 0:
		panic("peer: buffer released twice")
	}
}
