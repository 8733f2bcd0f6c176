package objectstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sheepdog"
)

// headerLog is what makes headers durable: files of records, one record a commit. When it
// has become long it begins another file, and each commit then brings some of all headers
// there (the sweep); once that has all of them, the files before it go.
//
// A file begins with a block, and each record with one:
//
//	 0 magic(4) version(2) zero(2)
//	 8 store(8)
//	16 file(8)       its number
//	24 before(8)     where the file before it ends
//	32 CRC-32C(4)    of all before
//
//	 0 length(4)     of the entries
//	 4 CRC-32C(4)    of store(8), file(8), where the record is(8), length(4) and entries
//	 8 entries
//
// An entry is a header of now, or that there is none any more (length 0):
//
//	family(8) index(4) layer(8) length(2) header
type headerLog struct {
	headerLogOptions
	files    []headerFile
	reserved int64    // bytes of the last file that have their space
	promised int64    // bytes of records that room was asked for, and that have not come
	linked   bool     // the name of the last file is durable
	sweep    int      // the next shard that the last file gets; headerShards: it has all
	stray    []uint64 // files that nothing needs
	buf      []byte
	reading  sync.Mutex // files do not go while somebody reads them
}

// headerLogOptions say where the log is, and how it is kept.
type headerLogOptions struct {
	fs     fileSystem
	dir    string
	store  uint64
	noSync bool
	slack  int64 // how long it may be beyond twice what it must have, in bytes
}

// headerFile is a file of the log. It counts up to end.
type headerFile struct {
	file
	no  uint64
	end int64
}

// headerMark is where the log begins and ends: with file first, and at a byte of file
// last. It is an entry of the metadata store, and part of each commit with headers.
//
//	version(1) first(8) last(8) end(8)
type headerMark struct {
	first, last uint64
	end         int64
}

const (
	headerFilePrefix = "headers."
	headerLogMagic   = 0x48484453 // "SDHH"
	headerLogVersion = 1
	headerMarkLen    = 25
	headerMarkSize   = headerMarkLen + 64
	headerRecordLen  = 8
	headerEntryLen   = 8 + 4 + 8 + 2
	headerSlack      = 4 << 20
	headerAhead      = 256 << 10 // how much space is ready, in bytes
)

var headerMarkKey = append([]byte{keyMeta}, "headers"...)

// headerChange sets a header, or removes it when value is nil.
type headerChange struct {
	key   objectKey
	value []byte
}

func (m headerMark) change() change {
	b := append(make([]byte, 0, headerMarkLen), headerLogVersion)
	for _, v := range []uint64{m.first, m.last, uint64(m.end)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return change{headerMarkKey, b}
}

func decodeHeaderMark(b []byte) (headerMark, error) {
	if len(b) > 0 && b[0] != headerLogVersion {
		return headerMark{}, &versionError{what: "mark of the header log", found: uint32(b[0]), want: headerLogVersion}
	}
	if len(b) != headerMarkLen {
		return headerMark{}, fmt.Errorf("mark of the header log has %d bytes, want %d", len(b), headerMarkLen)
	}
	le := binary.LittleEndian
	m := headerMark{le.Uint64(b[1:]), le.Uint64(b[9:]), int64(le.Uint64(b[17:]))}
	if m.first == 0 || m.first > m.last || m.end < blockSize || m.end%blockSize != 0 {
		return headerMark{}, fmt.Errorf("mark of the header log is malformed: %+v", m)
	}
	return m, nil
}

func (l *headerLog) name(no uint64) string {
	return filepath.Join(l.dir, headerFilePrefix+strconv.FormatUint(no, 10))
}

// size is the length of the log.
func (l *headerLog) size() int64 {
	n := int64(0)
	for i := range l.files {
		n += l.files[i].end
	}
	return n
}

func (l *headerLog) last() *headerFile { return &l.files[len(l.files)-1] }

// begin begins another file, which all headers are to be brought to.
func (l *headerLog) begin() error {
	no, before := uint64(1), int64(0)
	if len(l.files) > 0 {
		no, before = l.last().no+1, l.last().end
	}
	l.stray = slices.DeleteFunc(l.stray, func(other uint64) bool { return other == no }) // what it has counts for nothing
	f, err := l.fs.Open(l.name(no))
	if err != nil {
		return diskError("make "+l.name(no), err)
	}
	reserved, err := reserveFile(l.fs, l.dir, f, 0, blockSize+headerAhead+l.promised)
	if err = roomError(err); err == nil {
		_, err = f.WriteAt(l.fileHeader(no, before), 0)
	}
	if err != nil {
		l.stray = append(l.stray, no)
		return errors.Join(diskError("make "+l.name(no), err), f.Close())
	}
	l.files = append(l.files, headerFile{f, no, blockSize})
	l.reserved, l.linked, l.sweep = reserved, false, 0
	return nil
}

func (l *headerLog) fileHeader(no uint64, before int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	le.PutUint32(b, headerLogMagic)
	le.PutUint16(b[4:], headerLogVersion)
	le.PutUint64(b[8:], l.store)
	le.PutUint64(b[16:], no)
	le.PutUint64(b[24:], uint64(before))
	le.PutUint32(b[32:], crc32.Checksum(b[:32], castagnoli))
	return b
}

// reserveFile gives a file its space up to n bytes, of which it has some, and returns how far it has.
// Where the file system cannot do that, it asks whether there is as much.
func reserveFile(fs fileSystem, dir string, f file, has, n int64) (int64, error) {
	if n <= has {
		return has, nil
	}
	if r, ok := f.(reserver); ok {
		if done, err := r.Reserve(n); err != nil || done {
			return n, err
		}
	}
	_, free, err := fs.Space(dir)
	if err == nil && free < uint64(n-has) {
		err = sheepdog.ErrNoSpace
	}
	return n, err
}

// roomError says what to do where there is no space for the log.
func roomError(err error) error {
	return diskError("make room for the headers of objects; if the file system is full, delete something or add space", err)
}

// reserve makes sure that the last file has space up to n bytes, and some more.
func (l *headerLog) reserve(n int64) error {
	if n <= l.reserved {
		return nil
	}
	n = (n+headerAhead-1)/headerAhead*headerAhead + headerAhead
	reserved, err := reserveFile(l.fs, l.dir, l.last().file, l.reserved, n)
	if err != nil {
		return roomError(err)
	}
	l.reserved = reserved
	return nil
}

// room returns sheepdog.ErrNoSpace unless there is space for so many bytes of records, and
// keeps it for them.
func (l *headerLog) room(n int64) error {
	if len(l.files) == 0 {
		if err := l.begin(); err != nil {
			return err
		}
	}
	if err := l.reserve(l.last().end + n); err != nil {
		return err
	}
	l.promised = max(l.promised, n)
	return nil
}

// append appends a record, durable, and returns what it is to be decided by.
func (l *headerLog) append(h *headers, changes []headerChange) (headerMark, error) {
	if len(l.files) == 0 || l.sweep == headerShards && l.size() > 2*h.live.Load()+l.slack {
		// Where there is no space for another file the log goes on in this one.
		if err := l.begin(); err != nil && (len(l.files) == 0 || !errors.Is(err, sheepdog.ErrNoSpace)) {
			return headerMark{}, err
		}
	}
	f := l.last()
	sweep, own, record := l.record(h, l.sweep, changes)
	l.promised = max(l.promised-own, 0)
	err := l.reserve(f.end + int64(len(record)) + l.promised)
	if sweep > l.sweep && errors.Is(err, sheepdog.ErrNoSpace) { // sweep later
		_, _, record = l.record(h, headerShards, changes)
		sweep, err = l.sweep, l.reserve(f.end+int64(len(record)))
	}
	if err != nil {
		return headerMark{}, err
	}
	if _, err := f.WriteAt(record, f.end); err != nil {
		return headerMark{}, diskError("write the header log", err)
	}
	if err := l.sync(f); err != nil {
		return headerMark{}, diskError("sync the header log", err)
	}
	l.sweep = sweep
	f.end += int64(len(record))
	m := headerMark{first: l.files[0].no, last: f.no, end: f.end}
	if l.sweep == headerShards {
		m.first = f.no
	}
	return m, nil
}

func (l *headerLog) sync(f *headerFile) error {
	if l.noSync {
		return nil
	}
	if err := f.Sync(); err != nil || l.linked {
		return err
	}
	l.linked = true
	return l.fs.SyncDir(l.dir)
}

// record makes the record of a commit, with about as much of the sweep as the commit has
// itself before that. It returns where the sweep goes on, and how long the record would be
// without.
func (l *headerLog) record(h *headers, sweep int, changes []headerChange) (next int, own int64, record []byte) {
	n := headerRecordLen
	for i := range changes {
		n += headerEntryLen + len(changes[i].value)
	}
	own = int64(wholeBlocks(n))
	b := append(l.buf[:0], zeroBlock[:headerRecordLen]...)
	for limit := len(b) + wholeBlocks(n); sweep < headerShards && len(b) < limit; sweep++ {
		b = h.shards[sweep].appendAll(b)
	}
	for i := range changes {
		b = appendHeaderEntry(b, changes[i].key, changes[i].value)
	}
	n = len(b) - headerRecordLen
	b = append(b, zeroBlock[:wholeBlocks(len(b))-len(b)]...)
	binary.LittleEndian.PutUint32(b, uint32(n))
	f := l.last()
	binary.LittleEndian.PutUint32(b[4:], l.sum(f.no, f.end, b[:4], b[headerRecordLen:][:n]))
	l.buf = b
	return sweep, own, b
}

// wholeBlocks is n bytes and what is missing to a multiple of blocks.
func wholeBlocks(n int) int { return (n + blockSize - 1) / blockSize * blockSize }

// sum is the checksum of a record. One that is somewhere else has another.
func (l *headerLog) sum(no uint64, at int64, length, entries []byte) uint32 {
	var where [24]byte
	binary.LittleEndian.PutUint64(where[:], l.store)
	binary.LittleEndian.PutUint64(where[8:], no)
	binary.LittleEndian.PutUint64(where[16:], uint64(at))
	crc := crc32.Checksum(where[:], castagnoli)
	return crc32.Update(crc32.Update(crc, castagnoli, length), castagnoli, entries)
}

// appendAll appends an entry for each header of a shard.
func (s *headerShard) appendAll(b []byte) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, headers := range s.piles.each {
		for layer, header := range eachHeader(headers) {
			b = appendHeaderEntry(b, objectKey{id, layer}, header)
		}
	}
	return b
}

func appendHeaderEntry(b []byte, k objectKey, header []byte) []byte {
	if len(header) > math.MaxUint16 {
		panic("objectstore: the header of an object is too large")
	}
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(k.Object.Family))
	b = le.AppendUint32(b, uint32(k.Object.Index))
	b = le.AppendUint64(b, uint64(k.Layer))
	b = le.AppendUint16(b, uint16(len(header)))
	return append(b, header...)
}

// decided lets the files go that are not needed any more, now that a mark is in the
// metadata store. One that cannot be removed now is removed later.
func (l *headerLog) decided(m headerMark) {
	if len(l.stray) == 0 && l.files[0].no == m.first || !l.reading.TryLock() {
		return
	}
	defer l.reading.Unlock()
	for l.files[0].no < m.first {
		l.stray = append(l.stray, l.files[0].no)
		_ = l.files[0].Close() // whatever it had to say, nobody needs the file
		l.files = slices.Delete(l.files, 0, 1)
	}
	l.stray = slices.DeleteFunc(l.stray, func(no uint64) bool { return l.fs.Remove(l.name(no)) == nil })
}

func (l *headerLog) close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	l.files = nil
	return errors.Join(errs...)
}

// open opens the files from the first to the last of a mark.
func (l *headerLog) open(m headerMark) error {
	there, err := l.list()
	if err != nil {
		return err
	}
	for _, no := range there {
		if no < m.first || no > m.last {
			l.stray = append(l.stray, no)
			continue
		}
		if want := m.first + uint64(len(l.files)); no != want {
			return fmt.Errorf("%s is gone: %w", l.name(want), errEmptied)
		}
		f, err := l.fs.Open(l.name(no))
		if err != nil {
			return diskError("open "+l.name(no), err)
		}
		l.files = append(l.files, headerFile{file: f, no: no})
	}
	if n := uint64(len(l.files)); m.last > 0 && n != m.last-m.first+1 {
		return fmt.Errorf("%s is gone: %w", l.name(m.first+n), errEmptied)
	}
	if l.sweep = headerShards; m.first < m.last {
		l.sweep = 0 // nobody knows how far it was
	}
	return l.readEnds(m.end)
}

// list is the numbers of the files that there are, ascending.
func (l *headerLog) list() ([]uint64, error) {
	names, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return nil, diskError("list "+l.dir, err)
	}
	var out []uint64
	for _, name := range names {
		number, ok := strings.CutPrefix(name, headerFilePrefix)
		if no, err := strconv.ParseUint(number, 10, 64); ok && err == nil && no > 0 {
			out = append(out, no)
		}
	}
	slices.Sort(out)
	return out, nil
}

// readEnds reads the blocks that the files begin with, and from them where those before
// end; the last one ends where it is said.
func (l *headerLog) readEnds(end int64) error {
	le := binary.LittleEndian
	for i := range l.files {
		f := &l.files[i]
		b := make([]byte, blockSize)
		if err := readFull(f.file, b, 0); err != nil {
			return diskError("read "+l.name(f.no), err)
		}
		if v := le.Uint16(b[4:]); le.Uint32(b) == headerLogMagic && v != headerLogVersion {
			return &versionError{what: "header log", found: uint32(v), want: headerLogVersion}
		}
		before := int64(le.Uint64(b[24:]))
		if !slices.Equal(b, l.fileHeader(f.no, before)) || before < 0 || before%blockSize != 0 {
			return fmt.Errorf("%s: %w", l.name(f.no), errBadCRC)
		}
		if f.end = end; i > 0 {
			l.files[i-1].end = before
		}
	}
	return nil
}

// each visits the entries of the files, from the first on; an empty header is none any
// more.
func (l *headerLog) each(files []headerFile, visit func(k objectKey, header []byte)) error {
	for _, f := range files {
		if err := l.eachRecord(f, visit); err != nil {
			return fmt.Errorf("%s: %w", l.name(f.no), err)
		}
	}
	return nil
}

func (l *headerLog) eachRecord(f headerFile, visit func(k objectKey, header []byte)) error {
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, f.end), 1<<20)
	if _, err := r.Discard(blockSize); err != nil {
		return diskError("read", err)
	}
	var body []byte
	for at := int64(blockSize); at < f.end; {
		var head [headerRecordLen]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return diskError("read", err)
		}
		n := int64(binary.LittleEndian.Uint32(head[:]))
		whole := int64(wholeBlocks(headerRecordLen + int(n)))
		if at+whole > f.end {
			return fmt.Errorf("record at %d: %w", at, errBadCRC)
		}
		body = slices.Grow(body[:0], int(whole))[:whole-headerRecordLen]
		if _, err := io.ReadFull(r, body); err != nil {
			return diskError("read", err)
		}
		if l.sum(f.no, at, head[:4], body[:n]) != binary.LittleEndian.Uint32(head[4:]) {
			return fmt.Errorf("record at %d: %w", at, errBadCRC)
		}
		if err := eachHeaderEntry(body[:n], visit); err != nil {
			return fmt.Errorf("record at %d: %w", at, err)
		}
		at += whole
	}
	return nil
}

func eachHeaderEntry(b []byte, visit func(k objectKey, header []byte)) error {
	le := binary.LittleEndian
	for len(b) > 0 {
		if len(b) < headerEntryLen {
			return errTruncated
		}
		k := objectKey{sheepdog.ObjectID{Family: sheepdog.FamilyID(le.Uint64(b)), Index: sheepdog.Index(le.Uint32(b[8:]))}, sheepdog.LayerID(le.Uint64(b[12:]))}
		n := int(le.Uint16(b[20:]))
		if b = b[headerEntryLen:]; len(b) < n {
			return errTruncated
		}
		visit(k, b[:n])
		b = b[n:]
	}
	return nil
}
