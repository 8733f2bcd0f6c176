package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/internal/kvcheck"
	"sheepdog/internal/kvlog"
	"sheepdog/internal/kvsync"
	"sheepdog/internal/reserve"
)

// raftLog keeps Raft's log, term and vote on Badger. This is the only file of
// the package that knows Badger. Keys:
//
//	'l' index 8   one log entry: version=2 | term 8 | type 1 | appended 8 |
//	              len 4, extensions | data | CRC-32C 4 of index and all before.
//	              Version 1 has no checksum.
//	's' name      a value of the stable store
//
// Every transaction is synced before its call returns. First and last index are kept
// in memory, as a look-up would walk over the deleted entries before them.
type raftLog struct {
	db      *badger.DB
	reserve *reserve.Reserve
	failed  func(error)  // told once why the log is out of service; it must not block
	sync    func() error // makes what was committed durable
	compact *compactor

	mu          sync.Mutex
	first, last uint64 // 0: empty
	failure     error  // set once: see broke
}

var (
	_ raft.LogStore          = (*raftLog)(nil)
	_ raft.StableStore       = (*raftLog)(nil)
	_ raft.MonotonicLogStore = (*raftLog)(nil)
)

const (
	logEntryVersion = 2
	logEntryFixed   = 1 + 8 + 1 + 8 + 4
	logEntryCRC     = 4
	// raftMemTable keeps the preallocated files of an idle node near 30 MiB;
	// a transaction may hold 15 % of it.
	raftMemTable  = 8 << 20
	raftTables    = 5         // more of them are merged; Badger holds writers back at 15
	raftTxnBytes  = 256 << 10 // a transaction is closed once it has this much
	raftTxnCount  = 4096      // or this many deletions
	maxStoredData = maxEntry + 64<<10
	// What a full file system must have left; see package reserve.
	raftNeed    = 16 << 20
	raftBallast = 8 << 20
)

// openRaftLog opens or creates the log in dir.
func openRaftLog(dir string, failed func(error)) (*raftLog, error) {
	room, err := reserve.Open(reserve.Options{Dir: dir, Table: raftMemTable, Need: raftNeed, Ballast: raftBallast})
	if err != nil {
		return nil, fmt.Errorf("raft log: %w", err)
	}
	s := &raftLog{reserve: room, failed: failed, sync: kvsync.New(dir).Commits}
	o := badger.DefaultOptions(dir).
		WithLogger(kvlog.Logger{Failed: func(err error) { _ = s.broke(err) }}).
		WithCompression(options.None).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithNumVersionsToKeep(1).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithMemTableSize(raftMemTable).
		WithNumMemtables(2).
		WithBaseTableSize(2 << 20).
		WithValueLogFileSize(1 << 20).
		WithValueThreshold(1 << 20).
		WithNumLevelZeroTables(raftTables).
		WithNumCompactors(0) // see compactor
	if err := kvcheck.Database(dir, o.WithSyncWrites(true)); err != nil { // see update
		return nil, fmt.Errorf("open raft log: %w; %s", err, startAnew)
	}
	if s.db, err = badger.Open(o); err != nil {
		return nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	room.Opened()
	if s.first, err = s.edge(false); err == nil {
		s.last, err = s.edge(true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read raft log %s: %w", dir, err), s.db.Close())
	}
	s.compact = newCompactor(s.crowded, func() error { return s.db.Flatten(1) })
	s.compact.look()
	go s.compact.run()
	return s, nil
}

// broke takes the log out of service after an error of the disk: what it holds
// is not known any more. Until its node has ended, this node then acknowledges no
// entry and gives no vote, so that nobody counts on what a restart would not find.
func (s *raftLog) broke(err error) error {
	for _, harmless := range []error{nil, sheepdog.ErrNoSpace, sheepdog.ErrInvalid, badger.ErrDBClosed, badger.ErrBlockedWrites} {
		if errors.Is(err, harmless) {
			return err
		}
	}
	s.mu.Lock()
	first := s.failure == nil
	if first {
		s.failure = fmt.Errorf("raft log is out of service: %w: %w", sheepdog.ErrIO, err)
	}
	s.mu.Unlock()
	if first {
		s.failed(s.broken())
	}
	return s.broken()
}

func (s *raftLog) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// crowded reports whether tables are to be merged.
func (s *raftLog) crowded() bool { return s.db.Levels()[0].NumTables > raftTables }

// update is a transaction that writes so many bytes; they are durable when it returns.
func (s *raftLog) update(bytes int, write func(txn *badger.Txn) error) error {
	defer s.compact.wrote(bytes)
	if err := s.db.Update(write); err != nil {
		return err
	}
	return s.sync()
}

// Close waits for Badger's goroutines. What failed stays open until the process
// ends: Badger would try again for ever to write what it has in memory.
func (s *raftLog) Close() error {
	if s.broken() != nil {
		s.compact.end()
		return nil
	}
	if err := s.reserve.Closing(); err != nil {
		return fmt.Errorf("raft log stays open: %w", err)
	}
	s.compact.stop()
	return s.db.Close()
}

// IsMonotonic tells Raft that indexes never leave a gap.
func (s *raftLog) IsMonotonic() bool { return true }

// FirstIndex is the lowest stored index, 0 if there is none.
func (s *raftLog) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, nil
}

// LastIndex is the highest stored index, 0 if there is none.
func (s *raftLog) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, nil
}

// GetLog reads one entry; raft.ErrLogNotFound if it is not there.
func (s *raftLog) GetLog(index uint64, out *raft.Log) error {
	err := s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(logKey(index))
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error { return decodeLog(v, index, out) })
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return s.broke(fmt.Errorf("read raft log entry %d: %w", index, err))
	}
	return nil
}

// StoreLog stores one entry durably.
func (s *raftLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries durably, in order: a crash leaves a prefix of them.
func (s *raftLog) StoreLogs(logs []*raft.Log) error {
	for len(logs) > 0 {
		n, size := 0, 0
		for n < len(logs) && (n == 0 || size+len(logs[n].Data) <= raftTxnBytes) {
			size += logEntryFixed + len(logs[n].Data) + len(logs[n].Extensions)
			n++
		}
		if err := s.storeBatch(logs[:n]); err != nil {
			return fmt.Errorf("store raft log entries %d to %d: %w", logs[0].Index, logs[n-1].Index, err)
		}
		logs = logs[n:]
	}
	return nil
}

func (s *raftLog) storeBatch(logs []*raft.Log) error {
	if err := s.broken(); err != nil {
		return err
	}
	size := 0
	for _, l := range logs {
		size += logEntryFixed + len(l.Data) + len(l.Extensions) + 9
	}
	if err := s.reserve.Admit(len(logs), size); err != nil {
		return s.broke(err)
	}
	err := s.update(size, func(txn *badger.Txn) error {
		for _, l := range logs {
			if len(l.Data) > maxStoredData {
				return fmt.Errorf("entry %d has %d bytes, more than %d: %w", l.Index, len(l.Data), maxStoredData, sheepdog.ErrInvalid)
			}
			if err := txn.Set(logKey(l.Index), encodeLog(l)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return s.broke(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == 0 {
		s.first = logs[0].Index
	}
	s.last = max(s.last, logs[len(logs)-1].Index)
	return nil
}

// DeleteRange forgets entries from low to high, both included: the front of
// the log after a snapshot, or its end when a new leader disagrees. Entries go
// from the outside in, so that a crash leaves no gap.
func (s *raftLog) DeleteRange(low, high uint64) error {
	s.mu.Lock()
	first, last := s.first, s.last
	s.mu.Unlock()
	low, high = max(low, first), min(high, last)
	if first == 0 || low > high {
		return nil
	}
	if err := s.broken(); err != nil {
		return err
	}
	step := func(i uint64) uint64 { return low + i }
	if high == last && low > first {
		step = func(i uint64) uint64 { return high - i }
	}
	count := high - low + 1
	for done := uint64(0); done < count; done += raftTxnCount {
		if err := s.reserve.AdmitVital(int(min(count-done, raftTxnCount)), 9*raftTxnCount); err != nil {
			return s.broke(err)
		}
		err := s.update(9*raftTxnCount, func(txn *badger.Txn) error {
			for i := done; i < min(count, done+raftTxnCount); i++ {
				if err := txn.Delete(logKey(step(i))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("delete raft log entries %d to %d: %w", low, high, s.broke(err))
		}
	}
	s.deleted(low, high)
	return nil
}

func (s *raftLog) deleted(low, high uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case low == s.first && high == s.last:
		s.first, s.last = 0, 0
	case low == s.first:
		s.first = high + 1
	case high == s.last:
		s.last = low - 1
	}
}

// Set stores a value durably. Raft panics if it cannot store its term and vote.
func (s *raftLog) Set(name, value []byte) error {
	if err := s.broken(); err != nil {
		return err
	}
	if err := s.reserve.AdmitVital(1, len(name)+len(value)); err != nil {
		return s.broke(err)
	}
	return s.broke(s.update(len(name)+len(value), func(txn *badger.Txn) error {
		return txn.Set(stableKey(name), append([]byte(nil), value...))
	}))
}

// Get reads a value; nil if it was never set.
func (s *raftLog) Get(name []byte) (value []byte, err error) {
	err = s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(stableKey(name))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err == nil {
			value, err = item.ValueCopy(nil)
		}
		return err
	})
	return value, err
}

// termKey is Raft's name of the current term.
const termKey = "CurrentTerm"

// SetUint64 stores a number durably. If the log is out of service, a new term is
// taken all the same, because Raft panics otherwise: to forget a term in which
// this node neither voted nor acknowledged anything is harmless.
func (s *raftLog) SetUint64(name []byte, v uint64) error {
	err := s.Set(name, binary.BigEndian.AppendUint64(nil, v))
	if string(name) == termKey && s.broken() != nil {
		return nil
	}
	return err
}

// GetUint64 reads a number; 0 if it was never set.
func (s *raftLog) GetUint64(name []byte) (uint64, error) {
	b, err := s.Get(name)
	if err != nil || b == nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("raft value %q has %d bytes instead of 8", name, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// edge finds the first or last index.
func (s *raftLog) edge(last bool) (index uint64, err error) {
	err = s.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchValues = false
		o.Reverse = last
		it := txn.NewIterator(o)
		defer it.Close()
		if last {
			it.Seek(logKey(^uint64(0)))
		} else {
			it.Seek(logKey(0))
		}
		if !it.ValidForPrefix([]byte{'l'}) {
			return nil
		}
		key := it.Item().Key()
		if len(key) != 9 {
			return fmt.Errorf("key %x is none of the log", key)
		}
		index = binary.BigEndian.Uint64(key[1:])
		return nil
	})
	return index, err
}

func logKey(index uint64) []byte   { return binary.BigEndian.AppendUint64([]byte{'l'}, index) }
func stableKey(name []byte) []byte { return append([]byte{'s'}, name...) }

func encodeLog(l *raft.Log) []byte {
	b := make([]byte, 0, logEntryFixed+len(l.Extensions)+len(l.Data)+logEntryCRC)
	b = append(b, logEntryVersion)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	b = append(b, l.Extensions...)
	b = append(b, l.Data...)
	return binary.BigEndian.AppendUint32(b, logCRC(l.Index, b))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// logCRC is the checksum of an entry; an entry of another index does not have it.
func logCRC(index uint64, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(logKey(index), castagnoli), castagnoli, b)
}

// unsealLog verifies an entry and takes its checksum off.
func unsealLog(b []byte, index uint64) ([]byte, error) {
	if len(b) < logEntryFixed || b[0] == 0 || b[0] > logEntryVersion {
		return nil, fmt.Errorf("%d bytes of an unknown format", len(b))
	}
	if b[0] == 1 {
		return b, nil
	}
	n := len(b) - logEntryCRC
	if n < logEntryFixed || binary.BigEndian.Uint32(b[n:]) != logCRC(index, b[:n]) {
		return nil, fmt.Errorf("entry %d: checksum mismatch: %w", index, sheepdog.ErrIO)
	}
	return b[:n], nil
}

func decodeLog(b []byte, index uint64, out *raft.Log) error {
	b, err := unsealLog(b, index)
	if err != nil {
		return err
	}
	ext := int64(binary.BigEndian.Uint32(b[18:]))
	if int64(len(b)-logEntryFixed) < ext {
		return fmt.Errorf("extensions are cut short")
	}
	*out = raft.Log{Index: index, Term: binary.BigEndian.Uint64(b[1:]), Type: raft.LogType(b[9])}
	if at := int64(binary.BigEndian.Uint64(b[10:])); at != 0 {
		out.AppendedAt = time.Unix(0, at)
	}
	if ext > 0 {
		out.Extensions = append([]byte(nil), b[22:22+ext]...)
	}
	out.Data = append([]byte(nil), b[22+ext:]...)
	return nil
}
