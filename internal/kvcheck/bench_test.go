package kvcheck

import (
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// BenchmarkDatabase is how fast the tables of a store are verified.
func BenchmarkDatabase(b *testing.B) {
	dir := b.TempDir()
	db, err := badger.Open(dbOptions(dir).WithMemTableSize(8 << 20))
	if err != nil {
		b.Fatal(err)
	}
	const entries = 100_000
	w := db.NewWriteBatch()
	for i := range entries {
		if err := w.Set(key(i), make([]byte, 500)); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(entries * 500)
	for b.Loop() {
		if err := Database(dir, dbOptions(dir)); err != nil {
			b.Fatal(err)
		}
	}
}
