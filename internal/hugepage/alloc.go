// Package hugepage makes buffers of memory that the host is asked to keep in huge pages. Copying
// to and from such memory, and computing checksums of it, waits less for the translation of
// addresses, and a disk gets it in few pieces. Shorter buffers than of a MiB are ordinary memory.
package hugepage

import "unsafe"

const (
	// hugePage is the size of one, in bytes, on the processors that we know.
	hugePage = 2 << 20
	// slab is in how large pieces memory is made for buffers that are smaller.
	slab = 4 * hugePage
	// least is how long a buffer must be to gain from huge pages.
	least = 1 << 20
)

// Alloc makes one buffer of n bytes or, if that is a MiB at least and less than a few huge pages, as many as fit into
// those. These are multiples of n apart, the first at the beginning of a huge page. They are memory
// of Go's like any other, of which the host gives what is touched.
func Alloc(n int) [][]byte {
	if n < least {
		return [][]byte{make([]byte, n)}
	}
	size := max(n, slab)
	room := make([]byte, size+hugePage)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(room))) % hugePage)
	room = room[skip:][:size]
	advise(room[:size-size%hugePage])
	var all [][]byte
	for ; len(room) >= n; room = room[n:] {
		all = append(all, room[:n:n])
	}
	return all
}
