package nbd

import (
	"math/bits"
	"sync"

	"sheepdog/internal/hugepage"
)

// Buffers come in powers of two between these sizes.
const (
	smallestShift  = 12
	largestShift   = 26
	smallestBuffer = 1 << smallestShift
	largestBuffer  = 1 << largestShift
)

// buffers are pools of payload buffers by size class.
type buffers struct {
	classes [largestShift - smallestShift + 1]sync.Pool
}

// bufferClass is the class that holds n bytes.
func bufferClass(n int) int {
	if n <= smallestBuffer {
		return 0
	}
	return bits.Len(uint(n-1)) - smallestShift
}

// bufferCap is what a buffer of n bytes takes, and is accounted as.
func bufferCap(n int) int64 {
	return int64(smallestBuffer) << bufferClass(n)
}

// get returns a buffer of at least n bytes with unspecified content.
// n is at most largestBuffer.
func (b *buffers) get(n int) *[]byte {
	class := bufferClass(n)
	if p, ok := b.classes[class].Get().(*[]byte); ok {
		return p
	}
	return b.make(class)
}

// make makes a buffer, and others for later where memory is made for several.
func (b *buffers) make(class int) *[]byte {
	all := hugepage.Alloc(smallestBuffer << class)
	for i := range all[1:] {
		b.classes[class].Put(&all[i+1])
	}
	return &all[0]
}

// put gives back what get returned.
func (b *buffers) put(p *[]byte) {
	b.classes[bufferClass(len(*p))].Put(p)
}
