package objectstore

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// TestScale tells what many objects of one block cost in memory, and how long a
// store with them takes to open after it was closed and after a crash. It takes
// minutes, and makes nothing but figures: OBJECTS=1000000 go test -v -run TestScale.
func TestScale(t *testing.T) {
	count, err := strconv.Atoi(os.Getenv("OBJECTS"))
	if err != nil {
		t.Skip("only with OBJECTS=N")
	}
	u := openDisk(t, Options{})
	tell(t, "empty", 0)
	began := time.Now()
	const batch = 64
	block := storetest.Fill(1, 1)
	for i := 0; i < count; i += batch {
		ops, errs := make([]sheepdog.Op, min(batch, count-i)), make([]error, min(batch, count-i))
		for j := range ops {
			ops[j] = dataOp(sheepdog.Index(i+j), 1, 0, block, uint64(i+j+1))
		}
		u.d.Write(ops, errs)
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	tell(t, "written", time.Since(began))
	if name := os.Getenv("HEAP"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := pprof.WriteHeapProfile(f); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	began = time.Now()
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	tell(t, "destaged", time.Since(began))
	began = time.Now()
	layers, err := u.d.LayerBytes()
	if err != nil || layers[1] != uint64(count)*blockSize {
		t.Errorf("layers %v, %v", layers, err)
	}
	tell(t, "counted", time.Since(began))
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	u.open(t)
	tell(t, "opened after a close", time.Since(began))
	if err := os.Remove(u.d.spaceName()); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(u.d.spaceName()); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	u.open(t)
	tell(t, "opened without a map of free space, as after a crash", time.Since(began))
}

// tell logs the memory of the process now, and once the collector gave back what
// it could.
func tell(t *testing.T, when string, took time.Duration) {
	t.Helper()
	now := rss(t)
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%s: %.2f s, %d MiB resident, %d after a collection, %d of it live heap", when, took.Seconds(), now>>20, rss(t)>>20, m.HeapAlloc>>20)
}

func rss(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
