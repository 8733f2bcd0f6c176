package kvcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

func dbOptions(dir string) badger.Options {
	return badger.DefaultOptions(dir).WithLogger(nil).WithSyncWrites(true).WithCompression(options.None).
		WithMemTableSize(1 << 20).WithValueThreshold(100 << 10).WithBlockCacheSize(0).WithIndexCacheSize(1 << 20).WithValueLogFileSize(1 << 20)
}

func key(i int) []byte { return binary.BigEndian.AppendUint64([]byte("some prefix"), uint64(i)) }

func value(i int) []byte { return bytes.Repeat([]byte(fmt.Sprint(i)), 10) }

const (
	commits   = 100
	perCommit = 20
)

// filled makes a database, and returns it as it is after the death of its process, or
// closed.
func filled(t *testing.T, closed bool) (dir string) {
	t.Helper()
	dir = t.TempDir()
	db, err := badger.Open(dbOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	for c := range commits {
		if err := db.Update(func(txn *badger.Txn) error {
			for i := range perCommit {
				if err := txn.Set(key(c*perCommit+i), value(c*perCommit+i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if closed {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return copied
}

// missing counts what is not in the database that was in it.
func missing(t *testing.T, dir string) (n int) {
	t.Helper()
	db, err := badger.Open(dbOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(txn *badger.Txn) error {
		for i := range commits * perCommit {
			item, err := txn.Get(key(i))
			if errors.Is(err, badger.ErrKeyNotFound) {
				n++
				continue
			}
			if err != nil {
				return err
			}
			if v, err := item.ValueCopy(nil); err != nil || !bytes.Equal(v, value(i)) {
				t.Fatalf("value %d is %q, %v", i, v, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func only(t *testing.T, dir, pattern string) (path string, data []byte) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, pattern))
	if len(files) != 1 {
		t.Fatalf("%v are there for %s, want one", files, pattern)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return files[0], data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantDamaged(t *testing.T, dir, what, file string) {
	t.Helper()
	err := Database(dir, dbOptions(dir))
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), file) {
		t.Errorf("%s: %v, want %v and the name of %s", what, err, ErrDamaged, file)
	}
}

func TestSoundDatabase(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none"), filled(t, true), filled(t, false)} {
		if err := Database(dir, dbOptions(dir)); err != nil {
			t.Error(err)
		}
	}
}

// TestBitOfATable: Badger opens a table with a flipped bit, and gives other values or
// does not find keys, or panics.
func TestBitOfATable(t *testing.T) {
	dir := filled(t, true)
	path, data := only(t, dir, "*.sst")
	for range 150 {
		at, bit := rand.IntN(len(data)), byte(1)<<rand.IntN(8)
		data[at] ^= bit
		write(t, path, data)
		wantDamaged(t, dir, fmt.Sprintf("bit %d of byte %d of %d", bit, at, len(data)), filepath.Base(path))
		data[at] ^= bit
	}
	for range 20 {
		at := rand.IntN(len(data))
		write(t, path, data[:at])
		wantDamaged(t, dir, fmt.Sprintf("cut to %d of %d", at, len(data)), filepath.Base(path))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantDamaged(t, dir, "deleted", filepath.Base(path))
}

// TestBitOfALog: Badger ends to read where a bit is flipped, and forgets what was
// committed and synced after it.
func TestBitOfALog(t *testing.T) {
	dir := filled(t, false)
	path, data := only(t, dir, "*.mem")
	end := len(bytes.TrimRight(data, "\x00"))
	// The last two transactions may be taken for one that was torn.
	durable := end - 2*end/commits
	for range 150 {
		at, bit := logHeader+rand.IntN(durable-logHeader), byte(1)<<rand.IntN(8)
		data[at] ^= bit
		write(t, path, data)
		wantDamaged(t, dir, fmt.Sprintf("bit %d of byte %d of %d", bit, at, end), filepath.Base(path))
		data[at] ^= bit
	}
}

func TestHeadOfALog(t *testing.T) {
	dir := filled(t, false)
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		path, data := only(t, dir, pattern)
		data[rand.IntN(8)] ^= 1 << rand.IntN(8)
		write(t, path, data)
		wantDamaged(t, dir, pattern, filepath.Base(path))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTornEndOfALog: what a crash may leave of the last transaction is no damage, and
// nothing else is lost.
func TestTornEndOfALog(t *testing.T) {
	dir := filled(t, false)
	path, data := only(t, dir, "*.mem")
	end := len(bytes.TrimRight(data, "\x00"))
	last := bytes.LastIndex(data[:end-40], []byte(markKey)) + markKeyLen + 8
	for range 50 {
		torn := bytes.Clone(data)
		at := last + rand.IntN(end-last)
		clear(torn[at : at+rand.IntN(end-at)+1])
		write(t, path, torn)
		if err := Database(dir, dbOptions(dir)); err != nil {
			t.Errorf("torn at %d of %d to %d: %v", at, last, end, err)
		}
	}
	if n := missing(t, dir); n != perCommit {
		t.Errorf("%d keys are missing, want %d", n, perCommit)
	}
}

// TestManifest: without its manifest a database is taken for a new one, and its tables
// are deleted.
func TestManifest(t *testing.T) {
	for _, closed := range []bool{true, false} {
		dir := filled(t, closed)
		path, data := only(t, dir, badger.ManifestFilename)
		for at := range data {
			if at/4 == 2 || at/4 == 4 {
				continue // the length of a record: one that is too large is taken for a torn end
			}
			broken := bytes.Clone(data)
			broken[at] ^= 1 << rand.IntN(8)
			write(t, path, broken)
			wantDamaged(t, dir, fmt.Sprintf("byte %d", at), badger.ManifestFilename)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wantDamaged(t, dir, "deleted", badger.ManifestFilename)
	}
}
