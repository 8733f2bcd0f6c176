package objectstore

import (
	"errors"
	"io"
	"log/slog"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// diskUnderTest is a Disk that can be opened again.
type diskUnderTest struct {
	opts Options
	d    *Disk
}

func openDisk(t testing.TB, opts Options) *diskUnderTest {
	t.Helper()
	if opts.Meta == "" {
		opts.Meta = t.TempDir()
	}
	if opts.Logger == nil {
		opts.Logger = quiet()
	}
	u := &diskUnderTest{opts: opts}
	u.open(t)
	t.Cleanup(func() {
		if err := u.d.Close(); err != nil && !errors.Is(err, sheepdog.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return u
}

func (u *diskUnderTest) open(t testing.TB) {
	t.Helper()
	var err error
	if u.d, err = Open(u.opts); err != nil {
		t.Fatal(err)
	}
}

func (u *diskUnderTest) Engine() sheepdog.Engine { return u.d }

func (u *diskUnderTest) Reopen(t *testing.T) {
	t.Helper()
	if err := u.d.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	u.open(t)
}

// smallOptions make every bound bite early.
func smallOptions() Options {
	return Options{LogBytes: 1 << 20, MapCacheBytes: 1 << 20, ExtentFileBytes: 8 << 20, ReserveBytes: 1 << 20, openMeta: openFakeMeta, headerSlack: 1}
}

func TestDiskConformance(t *testing.T) {
	for name, opts := range map[string]Options{"default": {}, "small": smallOptions()} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Reopener {
				o := opts
				if o.openMeta != nil {
					o.openMeta = newFakeMeta().open
				}
				return openDisk(t, o)
			})
		})
	}
}

type memoryUnderTest struct{ m *Memory }

func (u memoryUnderTest) Engine() sheepdog.Engine { return u.m }

func (u memoryUnderTest) Reopen(t *testing.T) {
	if err := u.m.Close(); err != nil {
		t.Fatal(err)
	}
	u.m.Reopen()
}

func TestMemoryConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Reopener { return memoryUnderTest{NewMemory()} })
}
