package objectstore

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// watchedMeta tells of scans, and of commits before they are carried out.
type watchedMeta struct {
	metadata
	mu           sync.Mutex
	scan, commit func()
}

func (m *watchedMeta) onScan(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scan = f
}

func (m *watchedMeta) onCommit(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commit = f
}

func (m *watchedMeta) Scan(s scan, visit func(key, value []byte) (bool, error)) error {
	m.mu.Lock()
	f := m.scan
	m.mu.Unlock()
	f()
	return m.metadata.Scan(s, visit)
}

func (m *watchedMeta) Commit(changes []change) error {
	m.mu.Lock()
	f := m.commit
	m.mu.Unlock()
	f()
	return m.metadata.Commit(changes)
}

// Bug: what a destage had moved to a disk, and committed only after the disk had failed and
// nothing was found there, was not given up: the node counted for bytes that may be lost.
func TestLostDiskIsSearchedAfterADestage(t *testing.T) {
	u, _, a, _ := twoDisks(t, Options{})
	inner, _ := u.opts.openMeta("", metaOptions{})
	meta := &watchedMeta{metadata: inner, scan: func() {}, commit: func() {}}
	u.opts.openMeta = func(string, metaOptions) (metadata, error) { return meta, nil }
	u.Reopen(t)
	obj := sheepdog.ObjectID{Family: 1}
	for u.d.volumes.ranked(obj)[0].dir != a {
		obj.Index++
	}
	op := dataOp(0, 1, 0, storetest.Fill(1, 3), 1)
	op.Object = obj
	mustWrite(t, u.d, op)

	scanned := make(chan struct{})
	var lost, searching sync.Once
	var done sync.WaitGroup
	meta.onCommit(func() {
		lost.Do(func() {
			meta.onScan(func() { searching.Do(func() { close(scanned) }) })
			meta.onCommit(func() {})
			done.Go(func() {
				if err := u.d.LoseDisk(a); err != nil {
					t.Error(err)
				}
			})
			select {
			case <-scanned: // and it finds nothing
				time.Sleep(10 * time.Millisecond)
			case <-time.After(200 * time.Millisecond): // it waits for this destage
			}
		})
	})
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	recs := make([]sheepdog.Record, 3)
	if err := u.d.Records(obj, []sheepdog.LayerID{1}, 0, 3, recs); err != nil {
		t.Fatal(err)
	}
	for i, r := range recs {
		if r.Stamp != lostStamp {
			t.Errorf("block %d has stamp %v, want that of lost ones", i, r.Stamp)
		}
	}
}

// Bug: a flush was acknowledged though a disk had failed to keep what it was for, when a
// destage without that disk had brought the log beyond it to the other one.
func TestFlushAfterADestageWithoutTheFailedDisk(t *testing.T) {
	u, files, a, _ := twoDisks(t, Options{})
	on := func(dir string, from sheepdog.Index) sheepdog.ObjectID {
		obj := sheepdog.ObjectID{Family: 1, Index: from}
		for u.d.volumes.ranked(obj)[0].dir != dir {
			obj.Index++
		}
		return obj
	}
	large := dataOp(0, 1, 0, storetest.Fill(1, LargeWrite/blockSize), 1)
	large.Object = on(a, 0)
	mustWrite(t, u.d, dataOp(1000, 1, 0, storetest.Fill(2, 1), 2))
	mustWrite(t, u.d, large)
	fault(files, func(op, name string) error {
		if op == "sync" && filepath.Dir(name) == a {
			return unix.EIO
		}
		return nil
	})
	defer fault(files, nil)
	if err := u.d.DropObject(sheepdog.ObjectID{Family: 1, Index: 1000}, 1); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("the flush of a drop: %v, want %v", err, sheepdog.ErrIO)
	}
	_ = u.d.destage(true)
	for range 2 {
		if err := u.d.Flush(); !errors.Is(err, sheepdog.ErrIO) {
			t.Errorf("flush: %v, want %v", err, sheepdog.ErrIO)
		}
	}
	if err := errors.Join(u.d.LoseDisk(a), u.d.RetireDisk(a), u.d.Flush()); err != nil {
		t.Errorf("once it is known to be lost: %v", err)
	}
}

// Bug: a disk could not be given up, and flushes waited for that without end, while an object
// on it had a malformed map.
func TestDiskWithASpoiledObjectIsGivenUp(t *testing.T) {
	u, _, a, _ := twoDisks(t, Options{})
	obj := sheepdog.ObjectID{Family: 1}
	for u.d.volumes.ranked(obj)[0].dir != a {
		obj.Index++
	}
	for _, start := range []sheepdog.BlockNo{0, chunkBlocks} {
		op := dataOp(obj.Index, 1, start, storetest.Fill(uint64(start)+1, headBlocks), uint64(start)+1)
		mustWrite(t, u.d, op)
	}
	u.Reopen(t)
	spoil(t, u.d.meta, chunkKey(objectKey{obj, 1}, 1), true)
	if err := u.d.LoseDisk(a); err != nil {
		t.Error(err)
	}
}
