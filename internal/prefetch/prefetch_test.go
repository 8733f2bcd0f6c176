package prefetch

import (
	"testing"
	"unsafe"
)

// It is only a hint: whatever is there stays as it is, and nothing is too far away.
func TestLineChangesNothing(t *testing.T) {
	b := []byte{1, 2, 3}
	Line(unsafe.Pointer(&b[1]))
	Line(nil)
	if b[0] != 1 || b[1] != 2 || b[2] != 3 {
		t.Fatalf("memory is %v now", b)
	}
}
