package objectstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

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
// value log does not give space back; every commit is synced by itself, because
// DB.Sync misses memtables that were rotated away.
type badgerKV struct {
	db      *badger.DB
	reserve *reserve.Reserve
}

func openBadger(dir string, noSync bool, log *slog.Logger) (metadata, error) {
	room, err := reserve.Open(reserve.Options{Dir: dir, Table: memTableBytes, Need: metaNeed, Ballast: metaBallast})
	if err != nil {
		return nil, err
	}
	o := badger.DefaultOptions(dir).
		WithLogger(badgerLogger{log}).
		WithSyncWrites(!noSync).
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
	db, err := badger.Open(o)
	if err != nil {
		return nil, fmt.Errorf("open metadata in %s: %w", dir, err)
	}
	room.Opened()
	return &badgerKV{db: db, reserve: room}, nil
}

func (b *badgerKV) Get(key []byte) ([]byte, error) {
	var value []byte
	err := b.db.View(func(txn *badger.Txn) error {
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

func (b *badgerKV) Scan(s scan, visit func(key, value []byte) (bool, error)) error {
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
	return txn.Commit()
}

func (b *badgerKV) Fits(changes, bytes int) bool {
	return changes <= maxCommitChanges && bytes <= maxCommitBytes
}

func (b *badgerKV) Room(changes, bytes int) error { return b.reserve.Admit(changes, bytes) }

func (b *badgerKV) Size() uint64 {
	lsm, _ := b.db.Size()
	return uint64(max(lsm, 0))
}

func (b *badgerKV) Close() error {
	if err := b.reserve.Closing(); err != nil {
		return fmt.Errorf("metadata stay open: %w", err)
	}
	return b.db.Close()
}

// badgerLogger passes Badger's warnings on; what it tells of its routine is for
// debugging.
type badgerLogger struct{ log *slog.Logger }

func (l badgerLogger) Errorf(f string, a ...any)   { l.say(slog.LevelError, f, a) }
func (l badgerLogger) Warningf(f string, a ...any) { l.say(slog.LevelWarn, f, a) }
func (l badgerLogger) Infof(f string, a ...any)    { l.say(slog.LevelDebug, f, a) }
func (l badgerLogger) Debugf(f string, a ...any)   {}

func (l badgerLogger) say(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "badger: "+strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}
