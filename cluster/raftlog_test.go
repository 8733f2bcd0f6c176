package cluster

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/hashicorp/raft"

	"sheepdog"
)

func openTestLog(t *testing.T, dir string) *raftLog {
	t.Helper()
	s, err := openRaftLog(dir, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func testLogs(from, to uint64) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Term: i / 3, Type: raft.LogCommand, Data: []byte{byte(i), 1}, AppendedAt: time.Unix(int64(i), 0)})
	}
	return out
}

func checkEdges(t *testing.T, s *raftLog, first, last uint64) {
	t.Helper()
	f, _ := s.FirstIndex()
	l, _ := s.LastIndex()
	if f != first || l != last {
		t.Fatalf("log holds %d to %d, want %d to %d", f, l, first, last)
	}
}

func TestRaftLogSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	s := openTestLog(t, dir)
	checkEdges(t, s, 0, 0)
	if err := s.StoreLogs(testLogs(1, 300)); err != nil {
		t.Fatal(err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 99); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(251, 300); err != nil {
		t.Fatal(err)
	}
	checkEdges(t, s, 100, 250)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTestLog(t, dir)
	checkEdges(t, s, 100, 250)
	var got raft.Log
	if err := s.GetLog(123, &got); err != nil || got.Index != 123 || got.Term != 41 || !bytes.Equal(got.Data, []byte{123, 1}) || got.AppendedAt.Unix() != 123 {
		t.Errorf("entry 123 is %+v, %v", got, err)
	}
	for _, gone := range []uint64{1, 99, 251, 300, 1000} {
		if err := s.GetLog(gone, &got); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("entry %d: %v", gone, err)
		}
	}
	if v, err := s.GetUint64([]byte("CurrentTerm")); v != 7 || err != nil {
		t.Errorf("term is %d, %v", v, err)
	}
}

func TestRaftLogEmptiedAndBegunElsewhere(t *testing.T) {
	s := openTestLog(t, t.TempDir())
	if err := s.StoreLogs(testLogs(1, 10)); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 10); err != nil {
		t.Fatal(err)
	}
	checkEdges(t, s, 0, 0)
	if err := s.StoreLogs(testLogs(500, 510)); err != nil {
		t.Fatal(err)
	}
	checkEdges(t, s, 500, 510)
	if err := s.DeleteRange(1, 400); err != nil {
		t.Fatal(err)
	}
	checkEdges(t, s, 500, 510)
}

func TestRaftLogTakesTheLargestEntriesAndRefusesLarger(t *testing.T) {
	s := openTestLog(t, t.TempDir())
	big := testLogs(1, 5)
	for _, l := range big {
		l.Data = bytes.Repeat([]byte{byte(l.Index)}, maxEntry)
	}
	if err := s.StoreLogs(big); err != nil {
		t.Fatal(err)
	}
	var got raft.Log
	if err := s.GetLog(5, &got); err != nil || !bytes.Equal(got.Data, big[4].Data) {
		t.Errorf("entry 5 has %d bytes, %v", len(got.Data), err)
	}
	err := s.StoreLog(&raft.Log{Index: 6, Data: make([]byte, maxStoredData+1)})
	if err == nil {
		t.Error("an entry without bound was stored")
	}
	checkEdges(t, s, 1, 5)
}

func TestStableStoreOfUnknownKeys(t *testing.T) {
	s := openTestLog(t, t.TempDir())
	if b, err := s.Get([]byte("nothing")); b != nil || err != nil {
		t.Errorf("unknown key: %v, %v", b, err)
	}
	if v, err := s.GetUint64([]byte("nothing")); v != 0 || err != nil {
		t.Errorf("unknown number: %v, %v", v, err)
	}
	if err := s.Set([]byte("short"), []byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetUint64([]byte("short")); err == nil {
		t.Error("a number of one byte was read")
	}
}

func TestIdleRaftLogIsSmall(t *testing.T) {
	dir := t.TempDir()
	s := openTestLog(t, dir)
	if err := s.StoreLogs(testLogs(1, 100)); err != nil {
		t.Fatal(err)
	}
	var size int64
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if size > 48<<20 {
		t.Errorf("an idle log takes %d MiB", size>>20)
	}
}

func FuzzDecodeLog(f *testing.F) {
	f.Add(encodeLog(&raft.Log{Index: 9, Term: 3, Type: raft.LogCommand, Data: []byte("x"), Extensions: []byte("e"), AppendedAt: time.Unix(5, 0)}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var l raft.Log
		if decodeLog(b, 9, &l) != nil {
			return
		}
		if again := encodeLog(&l); b[0] == logEntryVersion && !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

// TestFlippedBitOfALogEntry: a leader whose log had rotted gave a follower another
// command than it had applied itself.
func TestFlippedBitOfALogEntry(t *testing.T) {
	entry := raft.Log{Index: 9, Term: 3, Type: raft.LogCommand, Data: []byte("a command"), AppendedAt: time.Unix(5, 0)}
	b := encodeLog(&entry)
	var got raft.Log
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		if err := decodeLog(b, 9, &got); err == nil {
			t.Errorf("bit %d is flipped, and it is an entry: %+v", bit, got)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	if err := decodeLog(b, 10, &got); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("as another entry: %v, want %v", err, sheepdog.ErrIO)
	}
	old := append([]byte{1}, b[1:len(b)-logEntryCRC]...)
	if err := decodeLog(old, 9, &got); err != nil || !reflect.DeepEqual(got, entry) {
		t.Errorf("an entry of version 1: %+v, %v", got, err)
	}
}

// A log whose disk failed acknowledges nothing and gives no vote any more, tells
// its owner once, and does not have Raft panic over a new term.
func TestRaftLogThatFailedPromisesNothing(t *testing.T) {
	told := 0
	s, err := openRaftLog(t.TempDir(), func(err error) {
		if told++; !errors.Is(err, sheepdog.ErrIO) {
			t.Errorf("the owner was told %v, want an I/O error", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	db := s.db
	t.Cleanup(func() { db.Close() })
	if err := s.StoreLogs(testLogs(1, 3)); err != nil {
		t.Fatal(err)
	}
	for _, harmless := range []error{nil, sheepdog.ErrNoSpace, badger.ErrDBClosed} {
		if err := s.broke(harmless); err != harmless || s.broken() != nil {
			t.Fatalf("%v broke the log", harmless)
		}
	}
	for range 2 {
		if err := s.broke(syscall.EIO); !errors.Is(err, sheepdog.ErrIO) {
			t.Errorf("broke = %v", err)
		}
	}
	if err := s.StoreLogs(testLogs(4, 5)); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("entries were acknowledged: %v", err)
	}
	if err := s.DeleteRange(1, 2); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("entries were deleted: %v", err)
	}
	if err := s.Set([]byte("LastVoteCand"), []byte("x")); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("a vote was given: %v", err)
	}
	if err := s.SetUint64([]byte("LastVoteTerm"), 9); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("a vote was given: %v", err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 9); err != nil {
		t.Errorf("Raft panics over %v", err)
	}
	checkEdges(t, s, 1, 3)
	if told != 1 {
		t.Errorf("the owner was told %d times", told)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever is stored is synced before anybody is told that it is; a log that could not be
// synced is out of service.
func TestRaftLogIsSyncedBeforeItAnswers(t *testing.T) {
	s := openTestLog(t, t.TempDir())
	syncs, sync := 0, s.sync
	s.sync = func() error { syncs++; return sync() }
	for i, store := range []func() error{
		func() error { return s.StoreLogs(testLogs(1, 3)) },
		func() error { return s.DeleteRange(1, 1) },
		func() error { return s.Set([]byte("LastVoteCand"), []byte("x")) },
		func() error { return s.SetUint64([]byte(termKey), 7) },
	} {
		if err := store(); err != nil || syncs != i+1 {
			t.Errorf("step %d: %v, %d syncs so far, want one each", i, err, syncs)
		}
	}
	var told error
	s.failed, s.sync = func(err error) { told = err }, func() error { return syscall.EIO }
	if err := s.StoreLogs(testLogs(4, 5)); !errors.Is(err, sheepdog.ErrIO) || !errors.Is(told, syscall.EIO) {
		t.Errorf("an entry that could not be synced: %v, and the owner was told %v", err, told)
	}
	s.mu.Lock()
	s.failure = nil // so that the test can close it
	s.mu.Unlock()
}

// TestEmptiedRaftLogIsNotThatOfANewNode: a node whose Raft log had lost its manifest
// came up as one that had never been in a cluster, and told the operator to format.
func TestEmptiedRaftLogIsNotThatOfANewNode(t *testing.T) {
	for _, lost := range []string{"log/MANIFEST", "log/*.mem", "log/*"} {
		dir := t.TempDir()
		o := &Options{Dir: dir, Logger: slog.New(slog.DiscardHandler), OnFailed: func(error) {}}
		s, err := openStorage(o)
		if err != nil {
			t.Fatal(err)
		}
		id := sheepdog.ClusterID{1, 2, 3}
		if err := s.setCluster(id); err != nil {
			t.Fatal(err)
		}
		after := t.TempDir() // what the death of the process leaves
		if err := os.CopyFS(after, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		o.Dir = after
		files, err := filepath.Glob(filepath.Join(after, lost))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", lost, files, err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := openStorage(o); err == nil || !strings.Contains(err.Error(), startAnew) {
			t.Errorf("without %s: %v, want an error that says %q", lost, err, startAnew)
			if err == nil {
				s.close()
			}
		}
	}
}

// TestMemberOfAnEarlierRelease: the log of a release that did not make the file of
// members gets it when it is opened.
func TestMemberOfAnEarlierRelease(t *testing.T) {
	o := &Options{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), OnFailed: func(error) {}}
	id := sheepdog.ClusterID{4, 5, 6}
	for range 3 {
		s, err := openStorage(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.set(clusterKey, id[:]); err != nil {
			t.Fatal(err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(o.Dir, memberFile)); err != nil {
		t.Error(err)
	}
}
