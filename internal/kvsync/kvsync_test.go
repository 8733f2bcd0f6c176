package kvsync

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Commits finds the logs while Badger goes from one table to the next, and nothing is in
// the value log, which it leaves alone.
func TestCommitsBesideTables(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	defer db.Close()
	sync := New(dir)
	const commits = 24 // of 30 KiB: some tables
	for i := range commits {
		if err := db.Update(func(txn *badger.Txn) error { return txn.Set(fmt.Append(nil, i), make([]byte, 30<<10)) }); err != nil {
			t.Fatal(err)
		}
		if err := sync.Commits(); err != nil {
			t.Fatal(err)
		}
	}
	if tables, _ := filepath.Glob(filepath.Join(dir, "*.sst")); len(tables) == 0 {
		t.Error("all is in one table")
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.vlog"))
	for _, log := range logs {
		b, err := os.ReadFile(log)
		if err != nil || len(bytes.TrimRight(b[headLength:], "\x00")) > 0 {
			t.Errorf("%s has values, or cannot be read: %v", log, err)
		}
	}
}

// headLength is that of the head of a value log, in bytes.
const headLength = 20

func open(t *testing.T, dir string) *badger.DB {
	t.Helper()
	db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil).WithMemTableSize(256 << 10).WithValueLogFileSize(1 << 20).WithValueThreshold(32 << 10).WithCompression(options.None))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// A log that cannot be synced is an error; one that Badger has removed meanwhile is none.
func TestLogThatCannotBeSynced(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "00001.mem")
	if err := os.Symlink(filepath.Join(dir, "gone"), log); err != nil {
		t.Fatal(err)
	}
	if err := New(dir).Commits(); err != nil {
		t.Errorf("a log that went: %v", err)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", log); err != nil { // cannot be synced
		t.Fatal(err)
	}
	if err := New(dir).Commits(); err == nil {
		t.Error("no error")
	}
}

// Bug: of two commits whose log could not be written the host tells one, and the other one
// was taken for durable.
func TestFailedSyncIsToldToAll(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "00001.mem")
	if err := os.Symlink("/dev/null", log); err != nil { // cannot be synced
		t.Fatal(err)
	}
	sync := New(dir)
	first := sync.Commits()
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if again := sync.Commits(); first == nil || again != first {
		t.Errorf("%v, then %v", first, again)
	}
}
