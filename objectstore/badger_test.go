package objectstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/internal/kvcheck"
)

// A table that shrinks under Badger's memory map is what a disk that does not
// give a page looks like: a signal. It must end the store, not the process. That
// is a process of its own, because Badger cannot be closed after it.
func TestMetadataThatCannotBeReadEndTheStoreOnly(t *testing.T) {
	const child = "SHEEP_TEST_FAULT"
	if dir := os.Getenv(child); dir != "" {
		if err := readDamaged(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// readDamaged fills a metadata store, cuts its tables off while they are mapped,
// and reads.
func readDamaged(dir string) error {
	var failed error
	open := func() (metadata, error) {
		return openBadger(dir, metaOptions{log: quiet(), failed: func(err error) { failed = err }})
	}
	m, err := open()
	if err != nil {
		return err
	}
	key := func(i uint32) []byte { return binary.BigEndian.AppendUint32([]byte("k"), i) }
	for i := range uint32(300) {
		if err := m.Commit([]change{{key: key(i), value: make([]byte, 4096)}}); err != nil {
			return err
		}
	}
	if err := m.Close(); err != nil {
		return err
	}
	if m, err = open(); err != nil { // now the values are in a table
		return err
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		return fmt.Errorf("there is no table to damage: %v, %v", tables, err)
	}
	for _, name := range tables {
		if err := os.Truncate(name, 0); err != nil {
			return err
		}
	}
	if v, err := m.Get(key(7)); !errors.Is(err, sheepdog.ErrIO) || failed == nil {
		return fmt.Errorf("Get = %d bytes, %v; the store was told %v, want an I/O error for both", len(v), err, failed)
	}
	failed = nil
	err = m.Scan(scan{prefix: []byte("k")}, func([]byte, []byte) (bool, error) { return true, nil })
	if !errors.Is(err, sheepdog.ErrIO) || failed == nil {
		return fmt.Errorf("Scan = %v; the store was told %v, want an I/O error for both", err, failed)
	}
	return nil
}

// What a caller's function does wrong is not taken for a fault of the disk.
func TestPanicOfAVisitorIsNotCaught(t *testing.T) {
	m, err := openBadger(t.TempDir(), metaOptions{log: quiet(), failed: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Commit([]change{{key: []byte("k"), value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if r := recover(); r != "a bug" {
			t.Errorf("recovered %v, want the visitor's panic", r)
		}
	}()
	_ = m.Scan(scan{prefix: []byte("k")}, func([]byte, []byte) (bool, error) { panic("a bug") })
}

func TestStoreWhoseMetadataFailIsOutOfService(t *testing.T) {
	told := make(chan error, 1)
	d, err := Open(Options{Meta: t.TempDir(), Logger: quiet(), openMeta: openFakeMeta, OnFailed: func(err error) { told <- err }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Abandon)
	d.metaFailed(errors.New("input/output error"))
	d.metaFailed(errors.New("again"))
	if err := <-told; !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("the owner was told %v, want an I/O error", err)
	}
	var errs [1]error
	d.Write([]sheepdog.Op{{Object: sheepdog.ObjectID{Family: 1}, Layer: 1, Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: 1}}}, errs[:])
	if !errors.Is(errs[0], sheepdog.ErrIO) {
		t.Errorf("a write after that: %v, want an I/O error", errs[0])
	}
}

// TestMetadataAreVerifiedWhileTheStoreRuns: what nobody reads is found rotten, too.
func TestMetadataAreVerifiedWhileTheStoreRuns(t *testing.T) {
	raw, told := newFakeMeta(), make(chan error, 1)
	d, err := Open(Options{Meta: t.TempDir(), Logger: quiet(), openMeta: raw.open, OnFailed: func(err error) { told <- err }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Abandon)
	ctx, cancel := context.WithCancel(t.Context())
	ticks, ended := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(ended)
		d.verifyMeta(ctx, ticks)
	}()
	ticks <- time.Time{}
	ticks <- time.Time{} // the first has found nothing by now
	select {
	case err := <-told:
		t.Fatalf("sound metadata ended the store: %v", err)
	default:
	}
	cancel()
	<-ended
	raw.rotten = kvcheck.ErrDamaged
	go func() { ticks <- time.Time{} }()
	d.verifyMeta(t.Context(), ticks)
	if err := <-told; !errors.Is(err, kvcheck.ErrDamaged) || !strings.Contains(err.Error(), startAnew) {
		t.Errorf("the owner was told %v, want %v and what to do", err, kvcheck.ErrDamaged)
	}
}

// TestFlippedBitOfTheMetadataIsRefused: Badger does not verify its tables. A key that
// was another one by then was a block that the store did not have, so that it read as
// zeros, from a replica that counted as complete.
func TestFlippedBitOfTheMetadataIsRefused(t *testing.T) {
	dir := t.TempDir()
	opts := Options{Meta: dir, Logger: quiet()}
	d, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put("some fact", []byte("of the store")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, MetaDir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("there is no table to damage: %v, %v", tables, err)
	}
	b, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 4
	if err := os.WriteFile(tables[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(opts); err == nil {
		d.Close()
	}
	if err == nil || !strings.Contains(err.Error(), tables[0]) || !strings.Contains(err.Error(), startAnew) {
		t.Errorf("Open = %v, want an error that names %s and says %q", err, tables[0], startAnew)
	}
}
