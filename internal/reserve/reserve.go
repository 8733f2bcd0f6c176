// Package reserve keeps room on a file system for a Badger database. Badger
// writes its tables through memory maps of sparse files, where a full file
// system is no error that could be returned but a signal that ends the process.
// A Reserve therefore sees to it that the file that commits go to has its blocks
// before they are written, and lets a commit that may begin another one pass
// only while the file system has room for all that follows from it. A ballast
// file is given up when somebody else has taken the rest.
//
// What it cannot rule out: that the neighbour takes the room in the
// milliseconds between this look at the file system and the end of the
// compaction that the commit brings about.
//
// Main type: Reserve.
package reserve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"sheepdog"
)

// Options say what a database needs.
type Options struct {
	Dir string // of the database
	// Table is its MemTableSize in bytes.
	Table int64
	// Need is what must be free before a commit that may begin another table, in
	// bytes: the table that is written out, and the compaction that follows.
	Need int64
	// Ballast is the size of the file that is given up for Need, in bytes.
	Ballast int64
}

// Reserve is the room of one database. Use it from Open until Close.
type Reserve struct {
	opts Options

	mu      sync.Mutex
	table   int   // number of the table that commits go to; -1: unknown
	filled  int64 // bytes that it may have by now, at most
	mapped  bool  // its blocks are allocated
	ballast bool
}

const (
	ballastName = "ballast"
	tableExt    = ".mem"
	// entryCost is what an entry takes in a table besides key and value, at most.
	entryCost = 192
	// emergency is the part of a table that commits may fill on a full file
	// system; Vital ones may go on to vital.
	emergency, vital = 0.6, 0.8
)

// Open makes room before the database is opened, which may have to write out
// what an earlier process left. It refuses with sheepdog.ErrNoSpace if there is
// none.
func Open(o Options) (*Reserve, error) {
	r := &Reserve{opts: o, table: -1}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", o.Dir, err)
	}
	st, err := os.Stat(r.ballastFile())
	r.ballast = err == nil && st.Size() > 0
	left, err := r.unwritten()
	if err != nil {
		return nil, err
	}
	if err := r.makeRoom(min(left, o.Need)); err != nil {
		return nil, fmt.Errorf("open %s: %w", o.Dir, err)
	}
	return r, nil
}

// unwritten is what opening the database may have to write: the tables of an
// earlier process, and some small files.
func (r *Reserve) unwritten() (int64, error) {
	names, err := os.ReadDir(r.opts.Dir)
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", r.opts.Dir, err)
	}
	need := int64(1 << 20)
	for _, e := range names {
		if strings.HasSuffix(e.Name(), tableExt) {
			need += r.opts.Table
		}
	}
	return need, nil
}

// Opened prepares for commits, after the database was opened or made.
func (r *Reserve) Opened() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.follow()
	r.restore()
}

// Admit asks whether a commit of so many entries and bytes of keys and values
// can be made without harm; if not it returns sheepdog.ErrNoSpace.
func (r *Reserve) Admit(entries, bytes int) error { return r.admit(entries, bytes, emergency) }

// AdmitVital is Admit for small commits without which the process cannot go on:
// a part of the table is theirs alone.
func (r *Reserve) AdmitVital(entries, bytes int) error { return r.admit(entries, bytes, vital) }

func (r *Reserve) admit(entries, bytes int, part float64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.follow()
	cost := int64(entries)*entryCost + int64(bytes)
	if !r.mapped || float64(r.filled+cost) > part*float64(r.opts.Table) {
		if err := r.makeRoom(r.opts.Need); err != nil {
			return err
		}
	}
	r.filled += cost
	return nil
}

// Closing makes room for what the database writes out when it closes. It
// refuses where closing would end the process; then leave it open: what was
// committed is durable.
func (r *Reserve) Closing() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.makeRoom(r.filled + 1<<20)
}

// follow notices that the database has begun another table, and allocates its
// blocks.
func (r *Reserve) follow() {
	no := max(r.table, 0)
	if r.table < 0 || r.exists(no+1) {
		no = r.newest()
	}
	if no == r.table && r.mapped {
		return
	}
	if no != r.table {
		r.table, r.filled = no, 0
	}
	r.mapped = allocate(r.tableFile(no), r.opts.Table+r.opts.Table/8) == nil
	r.restore()
}

func (r *Reserve) tableFile(no int) string {
	return filepath.Join(r.opts.Dir, fmt.Sprintf("%05d%s", no, tableExt))
}

func (r *Reserve) ballastFile() string { return filepath.Join(r.opts.Dir, ballastName) }

func (r *Reserve) exists(no int) bool {
	_, err := os.Stat(r.tableFile(no))
	return err == nil
}

func (r *Reserve) newest() int {
	entries, err := os.ReadDir(r.opts.Dir)
	if err != nil {
		return r.table
	}
	no := r.table
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), tableExt)
		if n, err := strconv.Atoi(name); ok && err == nil {
			no = max(no, n)
		}
	}
	return no
}

// makeRoom gives the ballast up if less than need is free, and fails if that is
// not enough.
func (r *Reserve) makeRoom(need int64) error {
	free, err := free(r.opts.Dir)
	if err != nil {
		return err
	}
	if free < need && r.ballast {
		if err := os.Remove(r.ballastFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("give up the ballast: %w", err)
		}
		r.ballast = false
		if free, err = freeAgain(r.opts.Dir); err != nil {
			return err
		}
	}
	if free < need {
		return fmt.Errorf("%s has %d bytes free, the metadata need %d: delete something or add space: %w",
			r.opts.Dir, free, need, sheepdog.ErrNoSpace)
	}
	return nil
}

// restore makes the ballast anew when there is plenty of room.
func (r *Reserve) restore() {
	if r.ballast || r.opts.Ballast == 0 {
		return
	}
	free, err := free(r.opts.Dir)
	if err != nil || free < r.opts.Need+2*r.opts.Ballast {
		return
	}
	f, err := os.OpenFile(r.ballastFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Fallocate(int(f.Fd()), 0, 0, r.opts.Ballast) != nil {
		os.Remove(r.ballastFile()) // there is no harm in a ballast that is missing
		return
	}
	r.ballast = true
}

// allocate gives a file its first n bytes on disk, without changing its length.
func allocate(name string, n int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, n)
}

func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// freeAgain is free after something was removed: some file systems count it
// only once it is committed.
func freeAgain(dir string) (int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return 0, fmt.Errorf("sync %s: %w", dir, err)
	}
	return free(dir)
}
