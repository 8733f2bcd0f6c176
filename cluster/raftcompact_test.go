package cluster

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/hashicorp/raft"
)

// A log of many tables, as a node leaves that is killed while they are merged, is merged
// when it is opened, and has all its entries then.
func TestRaftLogMergesItsTables(t *testing.T) {
	dir := t.TempDir()
	o := badger.DefaultOptions(dir).WithLogger(nil).WithMemTableSize(1 << 20).WithValueThreshold(64 << 10).
		WithCompression(options.None).WithNumCompactors(0).WithDetectConflicts(false)
	db, err := badger.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	const entries = 240 // 50 KiB each: a dozen tables
	big := make([]byte, 50<<10)
	for i := uint64(1); i <= entries; i++ {
		big[0] = byte(i)
		l := &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: big}
		if err := db.Update(func(txn *badger.Txn) error { return txn.Set(logKey(i), encodeLog(l)) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if tables, _ := filepath.Glob(filepath.Join(dir, "*.sst")); len(tables) <= raftTables {
		t.Fatalf("there are only %d tables", len(tables))
	}
	s := openTestLog(t, dir)
	for deadline := time.Now().Add(20 * time.Second); s.crowded(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d tables are still not merged", s.db.Levels()[0].NumTables)
		}
	}
	checkEdges(t, s, 1, entries)
	for i := uint64(1); i <= entries; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || l.Index != i || len(l.Data) != len(big) || l.Data[0] != byte(i) {
			t.Fatalf("entry %d: %+v, %v", i, l.Index, err)
		}
	}
}

// A compactor looks after enough was written, merges what is there, and tries again
// after a failure.
func TestCompactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables, merges, failures := 9, 0, 2
		c := newCompactor(func() bool { return tables > raftTables }, func() error {
			merges++
			if failures > 0 {
				failures--
				return errors.New("no space")
			}
			tables = 0
			return nil
		})
		go c.run()
		c.wrote(compactLook - 1)
		synctest.Wait()
		if merges != 0 {
			t.Fatalf("%d merges before enough was written", merges)
		}
		c.wrote(1)
		synctest.Wait()
		if merges != 1 {
			t.Fatalf("%d merges, want 1", merges)
		}
		time.Sleep(2 * compactRetry)
		synctest.Wait()
		if merges != 3 || tables != 0 {
			t.Fatalf("%d merges left %d tables, want 3 and none", merges, tables)
		}
		c.wrote(compactLook)
		synctest.Wait()
		if merges != 3 {
			t.Fatalf("merged again without need")
		}
		c.stop()
		c.stop() // as a log that is closed twice
	})
}
