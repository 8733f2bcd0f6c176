package hugepage

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// The host notes of a piece of memory that huge pages were asked for.
func TestHostIsAsked(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("this host has no huge pages to give:", err)
	}
	all := Alloc(1 << 20)
	for i, b := range all {
		if flags := memoryFlags(t, uintptr(unsafe.Pointer(&b[0]))); !strings.Contains(flags+" ", " hg ") {
			t.Errorf("memory of buffer %d has the flags%s", i, flags)
		}
	}
}

// memoryFlags is what the host says of the memory at an address.
func memoryFlags(t *testing.T, at uintptr) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	within := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			within = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && within {
			return flags
		}
	}
	t.Fatalf("the host says nothing of the memory at %#x", at)
	return ""
}
