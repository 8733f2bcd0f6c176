package objectstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// volume is the extent files of one disk. A file is sparse: only blocks in use
// take space. Its first block is a header:
//
//	 0 magic(4) version(2) zero(2)
//	 8 store(8)
//	16 disk(2) zero(2) number(4) of the file
//	24 blocks(8) of a file of this disk
//	32 CRC-32C(4) of all before
type volume struct {
	id     diskID
	dir    string
	weight uint64 // bytes of the file system when the disk was added
	quota  quota
	store  uint64
	fs     fileSystem
	space  *space
	failed atomic.Bool
	// leaving: it is being emptied. retired: it failed, and what it had and may
	// have lost is known to be so; a flush does without it.
	leaving, retired atomic.Bool
	told             atomic.Bool
	onFailed         func(*volume, error) // told at every failure; must not block
	// Writes of large data, and up to which of them a sync was complete. What a
	// destage writes is not counted: until it has synced that, the log has it too.
	written, synced atomic.Uint64
	lost            atomic.Pointer[error] // of a sync that failed

	mu    sync.RWMutex
	files []*extentFile

	growMu sync.Mutex
	gate   sync.RWMutex // see enter
}

type extentFile struct {
	f      file
	dirty  atomic.Bool
	length atomic.Int64 // see lengthen; endless if it cannot be changed
}

// lengthStep is in how large steps extent files get longer, in bytes.
const lengthStep = 64 << 20

// lengthener is a file that can be given a length without data. It is only called
// with more than its length.
type lengthener interface{ Lengthen(n int64) error }

// lengthen has the file reach to end before anything is written there, ahead of its
// data. XFS sets space aside behind data that are written at the end of a file, as
// much as the file has, and keeps it for minutes: a disk was full when it was half
// empty.
func (f *extentFile) lengthen(end int64) {
	if end <= f.length.Load() {
		return
	}
	to := (end + lengthStep - 1) / lengthStep * lengthStep
	l, ok := f.f.(lengthener)
	if !ok || l.Lengthen(to) != nil {
		// Writes lengthen the file as well, and tell what is wrong with it. A later
		// try could cut off what they have written by then.
		to = math.MaxInt64
	}
	f.length.Store(to)
}

const (
	extentMagic   = 0x584c4453 // "SDLX"
	extentVersion = 1
	extentFixed   = 36
)

func (v *volume) header(no int) []byte {
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	le.PutUint32(b, extentMagic)
	le.PutUint16(b[4:], extentVersion)
	le.PutUint64(b[8:], v.store)
	le.PutUint16(b[16:], uint16(v.id))
	le.PutUint32(b[20:], uint32(no))
	le.PutUint64(b[24:], v.space.perFile)
	le.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
	return b
}

// checkExtentHeader compares a file's header with the one that it should have.
// want nil accepts any store, disk and number, for decoding alone.
func checkExtentHeader(b, want []byte) error {
	le := binary.LittleEndian
	if len(b) < extentFixed || le.Uint32(b) != extentMagic {
		return errors.New("not an extent file of this program")
	}
	if v := le.Uint16(b[4:]); v != extentVersion {
		return &versionError{what: "extent file", found: uint32(v), want: extentVersion}
	}
	if crc32.Checksum(b[:32], castagnoli) != le.Uint32(b[32:]) {
		return errBadCRC
	}
	if want != nil && !slices.Equal(b[:extentFixed], want[:extentFixed]) {
		return errors.New("belongs to another store, disk or layout")
	}
	return nil
}

func (v *volume) fileName(no int) string {
	return filepath.Join(v.dir, fmt.Sprintf("extents.%06d", no))
}

// open opens the files that exist; they are numbered from 0 without gaps. The last
// may be one for whose header there was no space; nothing is in it.
func (v *volume) open() error {
	names, err := v.fs.ReadDir(v.dir)
	if err != nil {
		return diskError("list "+v.dir, err)
	}
	for no := 0; slices.Contains(names, filepath.Base(v.fileName(no))); no++ {
		err := v.openFile(no)
		if errors.Is(err, sheepdog.ErrNoSpace) && !slices.Contains(names, filepath.Base(v.fileName(no+1))) {
			return v.removeUnmade(no, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeUnmade removes a file that has not even a header, for want of space.
func (v *volume) removeUnmade(no int, cause error) error {
	name := v.fileName(no)
	f, err := v.fs.Open(name)
	if err != nil {
		return diskError("open extents", err)
	}
	size, err := f.Size()
	if err := errors.Join(err, f.Close()); err != nil {
		return diskError("size of "+name, err)
	}
	if size > blockSize {
		return cause
	}
	return diskError("remove "+name, v.fs.Remove(name))
}

// openFile opens a file, or makes it if it is empty: its header is written
// before any name in the metadata store leads to it.
func (v *volume) openFile(no int) error {
	name := v.fileName(no)
	f, err := v.fs.Open(name)
	if err != nil {
		return diskError("open extents", err)
	}
	head := make([]byte, blockSize)
	if err := readFull(f, head, 0); err != nil {
		f.Close()
		return diskError("read the header of "+name, err)
	}
	want := v.header(no)
	if slices.Equal(head, zeroBlock[:]) {
		_, err = f.WriteAt(want, 0)
		err = errors.Join(err, f.Sync(), v.fs.SyncDir(v.dir))
		err = diskError("write the header of "+name, err)
	} else if err = checkExtentHeader(head, want); err != nil {
		err = fmt.Errorf("extent file %s: %w", name, err)
	}
	if err != nil {
		f.Close()
		return err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return diskError("size of "+name, err)
	}
	e := &extentFile{f: f}
	e.length.Store(size)
	v.mu.Lock()
	v.files = append(v.files, e)
	v.mu.Unlock()
	v.space.grow()
	return nil
}

// file finds the file of a block and the offset in it.
func (v *volume) file(block uint64) (*extentFile, int64, error) {
	no := block / v.space.perFile
	v.mu.RLock()
	defer v.mu.RUnlock()
	if no >= uint64(len(v.files)) {
		return nil, 0, fmt.Errorf("disk %d has no extent file %d: %w", v.id, no, sheepdog.ErrIO)
	}
	return v.files[no], int64(block%v.space.perFile) * blockSize, nil
}

// admit asks for room for n bytes; see quota.
func (v *volume) admit(n, held uint64) error {
	return v.quota.admit(n, held, v.space.slackBlocks()*blockSize)
}

// allocate takes n blocks, growing as needed. For least see space.allocate.
func (v *volume) allocate(n, least uint64) ([]run, error) {
	var got []spaceRun
	for have := uint64(0); ; {
		before := len(got)
		got = v.space.allocate(n-have, least, got)
		for _, r := range got[before:] {
			have += r.n
		}
		if have == n {
			v.lengthen(got)
			return v.runs(got), nil
		}
		if err := v.grow(); err != nil {
			v.free(v.runs(got))
			return nil, err
		}
	}
}

// lengthen has the files reach beyond what was allocated.
func (v *volume) lengthen(got []spaceRun) {
	for _, r := range got {
		f, off, err := v.file(r.at)
		if end := off + int64(r.n)*blockSize; err == nil && end > f.length.Load() {
			v.growMu.Lock()
			f.lengthen(end)
			v.growMu.Unlock()
		}
	}
}

func (v *volume) runs(in []spaceRun) []run {
	out := make([]run, 0, len(in))
	for _, r := range in {
		out = append(out, run{extentPlace(v.id, r.at), uint32(r.n)})
	}
	return out
}

func (v *volume) grow() error {
	v.growMu.Lock()
	defer v.growMu.Unlock()
	err := v.openFile(v.space.files())
	if errors.Is(err, sheepdog.ErrIO) {
		v.fail(err)
	}
	return err
}

func (v *volume) free(runs []run) {
	for _, r := range runs {
		v.space.free(r.at.block(), uint64(r.n))
	}
}

// write puts data into a run.
func (v *volume) write(r run, data []byte, by route) error {
	f, off, err := v.file(r.at.block())
	if err != nil {
		return err
	}
	if by.direct {
		err = writeDirectly(f.f, data, off)
	} else {
		_, err = f.f.WriteAt(data, off)
	}
	if err != nil {
		v.quota.spent()
		return v.note("write", err)
	}
	f.dirty.Store(true)
	return nil
}

// hurry has the host begin to write long runs of data that were written, so that the
// next sync finds little to do.
func (v *volume) hurry(runs []run) {
	for _, r := range runs {
		f, off, err := v.file(r.at.block())
		if err != nil || r.n < rowBlocks {
			continue
		}
		if f, ok := f.f.(eagerFile); ok {
			f.beginWrite(off, int64(r.n)*blockSize)
		}
	}
}

func (v *volume) read(at place, buf []byte) error {
	f, off, err := v.file(at.block())
	if err != nil {
		return err
	}
	if err := readFull(f.f, buf, off); err != nil {
		return diskError(fmt.Sprintf("read disk %s", v.dir), err)
	}
	return nil
}

// enter begins to put new data on the volume, false if it takes none; leave
// after them. While somebody is inside it is not taken for empty.
func (v *volume) enter() bool {
	v.gate.RLock()
	if v.takes() {
		return true
	}
	v.gate.RUnlock()
	return false
}

func (v *volume) leave() { v.gate.RUnlock() }

// depart ends the use of the volume for new data, and returns when all that were
// inside have left: what they allocated is in use.
func (v *volume) depart() {
	v.leaving.Store(true)
	v.gate.Lock()
	v.gate.Unlock() //nolint:staticcheck // only the moment matters
}

// takes reports whether the volume takes new data.
func (v *volume) takes() bool { return !v.failed.Load() && !v.leaving.Load() }

// fail notes that the disk failed to keep data.
func (v *volume) fail(err error) {
	v.failed.Store(true)
	if v.onFailed != nil {
		v.onFailed(v, err)
	}
}

// note turns an error of a write or sync into ours. A disk that failed to keep
// data gets no new ones until the store is opened again; a full one does.
func (v *volume) note(what string, err error) error {
	err = diskError(fmt.Sprintf("%s disk %s", what, v.dir), err)
	if !errors.Is(err, sheepdog.ErrNoSpace) {
		v.fail(err)
	}
	return err
}

// needsSync reports whether a flush has anything to do here: large data that were
// written since the last sync, or the error of one that failed.
func (v *volume) needsSync() bool {
	return v.lost.Load() != nil || v.synced.Load() < v.written.Load()
}

// sync makes every write that returned before it durable. Calls do not overlap,
// so that none returns while another still syncs what it needs. After one failed
// all do: the host forgets what it could not write, and a later sync would
// claim it.
func (v *volume) sync(noSync bool) error {
	if lost := v.lost.Load(); lost != nil {
		return *lost
	}
	upTo := v.written.Load()
	v.mu.RLock()
	files := v.files
	v.mu.RUnlock()
	for _, f := range files {
		if !f.dirty.Swap(false) || noSync {
			continue
		}
		if err := f.f.Sync(); err != nil {
			lost := diskError(fmt.Sprintf("sync disk %s", v.dir), err)
			v.lost.Store(&lost)
			v.fail(lost)
			return lost
		}
	}
	v.synced.Store(upTo)
	return nil
}

const (
	// plenty is room, in bytes, with which slack may stay for a while.
	plenty = 8 << 30
	// longTrim is how long short rows of slack are given back in one go.
	longTrim = 2 * time.Second
	// borrowedPart is which part of what is free in the file system may become slack.
	borrowedPart = 8
)

// scarce reports whether the file system has so little room that slack is better
// given back at once. What the volume may borrow follows from that as well.
func (v *volume) scarce() bool {
	total, free, err := v.fs.Space(v.dir)
	if err != nil || free < min(total/8, plenty) {
		v.space.mayBorrow(0)
		return true
	}
	v.space.mayBorrow(free / borrowedPart / blockSize)
	return false
}

// trim gives up to n blocks, or a row more, of the excess of slack back, long rows
// first, until stop is true. A row takes about 0.1 ms, however short; so there is an end
// to that, and the rest is left to the next time or used again.
func (v *volume) trim(n uint64, stop func() bool) error {
	began := time.Now()
	for _, row := range []uint64{longRow, 8, 1} {
		for at := uint64(0); n > 0 && v.space.excess() > 0 && !stop(); {
			if row < longRow && time.Since(began) > longTrim {
				return nil
			}
			r, ok := v.space.claimSlack(at)
			if !ok {
				break
			}
			at = r.at + r.n
			if r.n < row {
				v.space.release(r, false)
				continue
			}
			err := v.punch(r)
			v.space.release(r, err == nil)
			if err != nil {
				return err
			}
			n -= min(n, r.n)
		}
	}
	return nil
}

// punch never crosses a file, whose header block is always in use.
func (v *volume) punch(r spaceRun) error {
	f, off, err := v.file(r.at)
	if err != nil {
		return err
	}
	if err := f.f.PunchHole(off, int64(r.n)*blockSize); err != nil {
		return v.note("give space back on", err)
	}
	v.quota.spent()
	return nil
}

func (v *volume) close() error {
	var errs []error
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range v.files {
		errs = append(errs, f.f.Close())
	}
	v.files = nil
	return errors.Join(errs...)
}

// markDirty makes the next sync cover what an earlier process wrote.
func (v *volume) markDirty() {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, f := range v.files {
		f.dirty.Store(true)
	}
	v.written.Add(1)
}
