package objectstore

import (
	"bytes"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sheepdog"
)

// gatedFiles is the host's file system; a sync of an extent file waits at the gate
// while there is one.
type gatedFiles struct {
	hostFiles
	gate  atomic.Pointer[syncGate]
	syncs atomic.Int32 // of extents, ended
}

type syncGate struct{ reached, open chan struct{} }

type gatedFile struct {
	file
	fs *gatedFiles
}

func (g *gatedFiles) Open(name string) (file, error) {
	f, err := g.hostFiles.Open(name)
	if err != nil || !strings.HasPrefix(filepath.Base(name), "extents.") {
		return f, err
	}
	return gatedFile{f, g}, nil
}

func (f gatedFile) Sync() error {
	if g := f.fs.gate.Load(); g != nil {
		g.reached <- struct{}{}
		<-g.open
	}
	defer f.fs.syncs.Add(1)
	return f.file.Sync()
}

// Bug: a flush, and so a snapshot, waited until a destage had synced everything that
// it had moved, though the log has that too. A flush that has extents of its own to
// sync waits, for the host tells of a failed write only once.
func TestFlushDoesNotWaitForDestage(t *testing.T) {
	fs := &gatedFiles{}
	u := openDisk(t, Options{Meta: t.TempDir(), openMeta: newFakeMeta().open, files: fs})
	small, large := bytes.Repeat([]byte{1}, blockSize), bytes.Repeat([]byte{2}, LargeWrite)
	mustWrite(t, u.d, dataOp(0, 1, 0, large, 1))
	if err := u.d.Flush(); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, u.d, dataOp(0, 1, 500, small, 2))

	gate := &syncGate{make(chan struct{}, 10), make(chan struct{})}
	fs.gate.Store(gate)
	destaged, flushed := make(chan error, 1), make(chan error, 1)
	go func() { destaged <- u.d.destage(true) }()
	await := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
		case <-time.After(20 * time.Second):
			t.Fatal(what)
		}
	}
	await("the destage does not sync what it moved", gate.reached)

	mustWrite(t, u.d, dataOp(0, 1, 501, small, 3))
	go func() { flushed <- u.d.Flush() }()
	select {
	case err := <-flushed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		close(gate.open)
		t.Fatal("a flush of what is in the log waits for the destage")
	}

	before := fs.syncs.Load()
	mustWrite(t, u.d, dataOp(0, 1, 600, large, 4))
	synced := make(chan int32, 1)
	go func() {
		err := u.d.Flush()
		synced <- fs.syncs.Load() - before
		flushed <- err
	}()
	close(gate.open)
	if n := <-synced; n < 2 {
		t.Errorf("a flush with a large write ended after %d syncs of extents, want the destage's and its own", n)
	}
	for _, ch := range []chan error{destaged, flushed} {
		if err := <-ch; err != nil {
			t.Error(err)
		}
	}
	want := append(bytes.Clone(small), small...)
	if got, err := readBlocks(t, u.d, 0, 1, 500, 2); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read what was destaged: %v", err)
	}
}

// What a disk lost stays the error of every flush, whether there is anything to
// flush or not.
func TestFlushTellsOfALostSyncAgain(t *testing.T) {
	fs := newSimFiles()
	u := openDisk(t, Options{Meta: t.TempDir(), files: fs, openMeta: newFakeMeta().open})
	mustWrite(t, u.d, dataOp(0, 1, 0, bytes.Repeat([]byte{2}, LargeWrite), 1))
	fs.mu.Lock()
	fs.fault = func(op, name string) error {
		if op == "sync" && strings.Contains(name, "extents.") {
			return errDead
		}
		return nil
	}
	fs.mu.Unlock()
	if u.d.Flush() == nil {
		t.Fatal("a flush succeeds whose sync failed")
	}
	fs.mu.Lock()
	fs.fault = nil
	fs.mu.Unlock()
	mustWrite(t, u.d, sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: 9}, Layer: 1, Start: 0, Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: 2}})
	if u.d.Flush() == nil {
		t.Error("the next flush succeeds")
	}
	if u.d.Close() == nil {
		t.Error("closing, which flushes, succeeds")
	}
}
