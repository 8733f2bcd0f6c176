package replica

import (
	"testing"
	"unsafe"
)

// A gate is on lines of the processor's cache that it shares with no other.
func TestShardsShareNoLine(t *testing.T) {
	const line = 64
	if size, at := unsafe.Sizeof(shard{}), unsafe.Offsetof(Server{}.shards); size%line != 0 || at%line != 0 {
		t.Errorf("a shard has %d bytes, and the first begins at %d", size, at)
	}
}
