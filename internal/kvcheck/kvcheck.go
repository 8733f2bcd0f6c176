// Package kvcheck looks at the files of a Badger database before it is opened.
// Badger itself verifies nothing: a flipped bit in a table hides a key or changes a
// value, one in the log of a memory table silently ends it there, and what it cannot
// parse is a panic of a goroutine that nobody can catch. Here each of them is an
// error.
//
// Main functions: Database, Tables.
package kvcheck

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
)

// ErrDamaged is returned when what was durable in a database is not there, or is not
// as it was written.
var ErrDamaged = errors.New("damaged")

// Database reads all that Badger would open in dir, which need not exist, and verifies
// checksums. The options are those that it is opened with; without encryption and
// compression, and with values in its tables. It takes the time of reading the files.
func Database(dir string, o badger.Options) error {
	if err := Tables(dir, o); err != nil {
		return err
	}
	for _, log := range slices.Concat(files(dir, "*.mem"), files(dir, "*.vlog")) {
		if err := checkHead(log); err != nil {
			return err
		}
	}
	if !o.SyncWrites { // then any of the last writes may be missing after a loss of power
		return nil
	}
	for _, log := range files(dir, "*.mem") {
		if err := checkLog(log); err != nil {
			return err
		}
	}
	return nil
}

// files are those in dir with names like pattern, which is well-formed.
func files(dir, pattern string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	return found
}

// Tables is Database without what was written last. The database may be in use.
func Tables(dir string, o badger.Options) error {
	tables, err := listed(dir, o)
	if err != nil {
		return err
	}
	var buf bytes.Buffer // of one table at a time
	for _, id := range tables {
		err := checkTable(table.NewFilename(id, dir), id, &buf)
		if errors.Is(err, fs.ErrNotExist) {
			now, lerr := listed(dir, o)
			if lerr != nil {
				return lerr
			}
			if !slices.Contains(now, id) {
				continue // Badger has replaced it meanwhile
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// listed are the tables that are in use. Others are what a crash left of one that
// was being written.
func listed(dir string, o badger.Options) ([]uint64, error) {
	path := filepath.Join(dir, badger.ManifestFilename)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unlisted(dir, path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return slices.Sorted(maps.Keys(m.Tables)), nil
}

// unlisted refuses a database without its manifest, which is the first file that is
// made of one: Badger would take it for a new one, and delete its tables.
func unlisted(dir, manifest string) error {
	for _, pattern := range []string{"*.sst", "*.mem"} {
		if found := files(dir, pattern); len(found) > 0 {
			return fmt.Errorf("%s: %w: it is not there, but %s is", manifest, ErrDamaged, filepath.Base(found[0]))
		}
	}
	return nil
}

// checkTable reads the file as a whole, not through a memory map: an error of the disk
// is an error.
func checkTable(path string, id uint64, buf *bytes.Buffer) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer f.Close()
	buf.Reset()
	if _, err := buf.ReadFrom(f); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer func() { // what Badger does where it cannot parse its file
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %w: it cannot be parsed: %v", path, ErrDamaged, r)
		}
	}()
	t, err := table.OpenInMemoryTable(buf.Bytes(), id, &table.Options{Compression: options.None, ChkMode: options.OnBlockRead})
	if err == nil {
		err = t.VerifyChecksum()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}
