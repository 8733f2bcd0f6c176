package objectstore

import (
	"errors"
	"fmt"
	"runtime/debug"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"sheepdog"
	"sheepdog/internal/kvcheck"
	"sheepdog/internal/kvlog"
	"sheepdog/internal/kvsync"
	"sheepdog/internal/reserve"
)

const (
	memTableBytes = 8 << 20
	// metaNeed is the room for a table that is written out and for the compaction
	// that follows; metaBallast is given up for it. See package reserve.
	metaNeed    = 24 << 20
	metaBallast = 12 << 20
	// A Badger transaction holds at most 15 % of a memtable.
	maxCommitBytes   = memTableBytes / 10
	maxCommitChanges = 8 << 10
)

// badgerKV keeps metadata in Badger. Values stay in the LSM tree, because its
// value log does not give space back; every commit is synced by itself (package
// kvsync), because DB.Sync misses memtables that were rotated away.
type badgerKV struct {
	db      *badger.DB
	sync    *kvsync.Syncer // nil: nothing is synced
	opts    badger.Options
	reserve *reserve.Reserve
	failed  func(error)
}

func openBadger(dir string, o metaOptions) (metadata, error) {
	room, err := reserve.Open(reserve.Options{Dir: dir, Table: memTableBytes, Need: metaNeed, Ballast: metaBallast})
	if err != nil {
		return nil, err
	}
	bo := badger.DefaultOptions(dir).
		WithLogger(kvlog.Logger{Log: o.log, Failed: o.failed}).
		WithDetectConflicts(false).
		WithNumVersionsToKeep(1).
		WithCompression(options.None).
		WithMetricsEnabled(false).
		WithBlockCacheSize(0).
		WithIndexCacheSize(32 << 20).
		WithMemTableSize(memTableBytes).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithValueThreshold(1 << 20).
		WithValueLogFileSize(memTableBytes)
	if err := kvcheck.Database(dir, bo.WithSyncWrites(!o.noSync)); err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	db, err := badger.Open(bo)
	if err != nil {
		return nil, fmt.Errorf("open metadata in %s: %w", dir, err)
	}
	room.Opened()
	b := &badgerKV{db: db, opts: bo, reserve: room, failed: o.failed}
	if !o.noSync {
		b.sync = kvsync.New(dir)
	}
	return b, nil
}

// Verify reads the tables. It may take seconds.
func (b *badgerKV) Verify() error { return kvcheck.Tables(b.opts.Dir, b.opts) }

func (b *badgerKV) Get(key []byte) (value []byte, err error) {
	defer b.catchFault(debug.SetPanicOnFault(true), &err)
	err = b.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		value, err = item.ValueCopy([]byte{})
		return err
	})
	return value, err
}

func (b *badgerKV) Scan(s scan, visit func(key, value []byte) (bool, error)) (err error) {
	defer b.catchFault(debug.SetPanicOnFault(true), &err)
	return b.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix, o.PrefetchValues = s.prefix, false
		it := txn.NewIterator(o)
		defer it.Close()
		from := s.from
		if from == nil {
			from = s.prefix
		}
		for it.Seek(from); it.Valid(); it.Next() {
			more, err := visitItem(it.Item(), s.keysOnly, visit)
			if err != nil || !more {
				return err
			}
		}
		return nil
	})
}

// catchFault makes an error of a fault in Badger's memory maps: a page of a table
// that the disk does not give is a signal, which would end the process. It ends
// the store. was is what SetPanicOnFault returned.
func (b *badgerKV) catchFault(was bool, err *error) {
	debug.SetPanicOnFault(was)
	switch r := recover().(type) {
	case nil:
	case interface{ Addr() uintptr }: // a runtime.Error of a fault has it
		*err = fmt.Errorf("a page of the metadata cannot be read: %v: %w", r, sheepdog.ErrIO)
		b.failed(*err)
	default:
		panic(r)
	}
}

func visitItem(item *badger.Item, keysOnly bool, visit func(key, value []byte) (bool, error)) (more bool, err error) {
	if keysOnly {
		return visit(item.Key(), nil)
	}
	verr := item.Value(func(value []byte) error {
		more, err = visit(item.Key(), value)
		return nil
	})
	if verr != nil {
		return false, verr
	}
	return more, err
}

func (b *badgerKV) Commit(changes []change) error {
	txn := b.db.NewTransaction(true)
	defer txn.Discard()
	for _, c := range changes {
		var err error
		if c.value == nil {
			err = txn.Delete(c.key)
		} else {
			err = txn.Set(c.key, c.value)
		}
		if err != nil {
			return err
		}
	}
	if err := txn.Commit(); err != nil || b.sync == nil {
		return err
	}
	return b.sync.Commits()
}

func (b *badgerKV) Fits(changes, bytes int) bool {
	return changes <= maxCommitChanges && bytes <= maxCommitBytes
}

func (b *badgerKV) Room(changes, bytes int) error {
	err := b.reserve.Admit(changes, bytes)
	if kvlog.OfDisk(err) {
		b.failed(err)
	}
	return err
}

func (b *badgerKV) Size() uint64 {
	lsm, _ := b.db.Size()
	return uint64(max(lsm, 0))
}

// Close leaves Badger open if there is not even room for what it has in memory.
func (b *badgerKV) Close() error {
	if err := b.reserve.Closing(); err != nil {
		return fmt.Errorf("metadata stay open: %w", err)
	}
	return b.db.Close()
}
