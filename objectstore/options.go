package objectstore

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"sheepdog"
)

// MetaDir is the directory in Options.Meta with the metadata, which are read through
// memory maps.
const MetaDir = "meta"

// Options says where a store is and what it may use. Zero values mean the
// defaults.
type Options struct {
	// Meta is the directory of the log and the metadata; it is made if missing.
	Meta string
	// Disks are directories for data, best each on a file system of its own.
	// Default: Meta/obj.
	Disks []string
	// LogBytes bounds the log: 1 MiB to 64 GiB, default 256 MiB. It takes the
	// space only when it is needed.
	LogBytes int64
	// LogReadyBytes is how much of the log is made when the store is opened, in the
	// background, where it is at most a sixteenth of what is free: so the first writes do
	// not wait for that, nor share the processor with it. Default: nothing.
	LogReadyBytes int64
	// MapCacheBytes bounds the maps kept in memory: at least 1 MiB, default
	// 96 MiB. Those with changes that are not destaged may take four thirds of it.
	MapCacheBytes int64
	// Existing: there must be a store; without it an empty directory gets a new one.
	Existing bool
	// ExtentFileBytes is the length of a (sparse) extent file: 1 MiB to 1 TiB in
	// steps of 256 KiB, default 1 GiB. It is fixed when the store is made.
	ExtentFileBytes int64
	// ReserveBytes of each file system are left free by writes; default 64 MiB.
	ReserveBytes int64
	// DestageEvery is how long freed space may wait while nothing else asks for
	// a destage; default 10 s.
	DestageEvery time.Duration
	// DefragmentRate bounds what is moved in the background so that it lies in sequence, in
	// bytes a second; a thirty-second of it while clients are busy. Default: nothing is moved.
	DefragmentRate int64
	// NoSync leaves out every sync: nothing survives the loss of power.
	NoSync bool
	// Logger hears of damage and of disks that fail. Default: slog.Default().
	Logger *slog.Logger

	// OnDiskFailed is told once of a disk that failed to keep data, by its
	// directory: have LoseDisk called. OnFailed is told once why the store is out
	// of service for good. Neither may block or call the store.
	OnDiskFailed func(dir string, err error)
	OnFailed     func(err error)

	// Busy reports whether clients are busy, for what may as well be done later. It may
	// not block. Default: never.
	Busy func() bool

	// Seams for tests.
	files       fileSystem
	openMeta    func(dir string, o metaOptions) (metadata, error)
	headerSlack int64 // see headerLog
}

// metaOptions are those of a metadata store.
type metaOptions struct {
	noSync bool
	log    *slog.Logger
	// failed is told, perhaps again and again, that the disk does not work. It does
	// not block.
	failed func(error)
}

const (
	minSegmentBlocks = 64
	maxSegmentBlocks = 2048
	extentFileStep   = 64 * blockSize
)

func (o Options) withDefaults() (Options, error) {
	if o.Meta == "" {
		return o, fmt.Errorf("open store: no directory for metadata given: %w", sheepdog.ErrInvalid)
	}
	if len(o.Disks) == 0 {
		o.Disks = []string{filepath.Join(o.Meta, "obj")}
	}
	setDefault(&o.LogBytes, 256<<20)
	setDefault(&o.MapCacheBytes, 96<<20)
	setDefault(&o.ExtentFileBytes, 1<<30)
	setDefault(&o.ReserveBytes, 64<<20)
	setDefault(&o.headerSlack, headerSlack)
	if o.DestageEvery == 0 {
		o.DestageEvery = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.files == nil {
		o.files = hostFiles{direct: new(directQueue)}
	}
	if o.openMeta == nil {
		o.openMeta = openBadger
	}
	return o, o.check()
}

func setDefault(v *int64, to int64) {
	if *v == 0 {
		*v = to
	}
}

func (o *Options) check() error {
	for _, c := range []struct {
		name     string
		v        int64
		min, max int64
	}{
		{"LogBytes", o.LogBytes, 1 << 20, 64 << 30},
		{"LogReadyBytes", o.LogReadyBytes, 0, 64 << 30},
		{"MapCacheBytes", o.MapCacheBytes, 1 << 20, 1 << 40},
		{"ExtentFileBytes", o.ExtentFileBytes, 1 << 20, 1 << 40},
		{"ReserveBytes", o.ReserveBytes, 0, 1 << 50},
		{"DefragmentRate", o.DefragmentRate, 0, 1 << 50},
	} {
		if c.v < c.min || c.v > c.max {
			return fmt.Errorf("open store: %s is %d, want %d to %d: %w", c.name, c.v, c.min, c.max, sheepdog.ErrInvalid)
		}
	}
	if o.ExtentFileBytes%extentFileStep != 0 {
		return fmt.Errorf("open store: ExtentFileBytes is %d, want a multiple of %d: %w", o.ExtentFileBytes, extentFileStep, sheepdog.ErrInvalid)
	}
	if len(o.Disks) > maxDisks {
		return fmt.Errorf("open store: %d disks, at most %d: %w", len(o.Disks), maxDisks, sheepdog.ErrInvalid)
	}
	seen := make(map[string]bool)
	for _, d := range o.Disks {
		if c := filepath.Clean(d); d == "" || seen[c] {
			return fmt.Errorf("open store: disk %q is empty or named twice: %w", d, sheepdog.ErrInvalid)
		} else {
			seen[c] = true
		}
	}
	return nil
}

func (o *Options) segmentBlocks() uint32 {
	return uint32(min(max(o.LogBytes/16/blockSize, minSegmentBlocks), maxSegmentBlocks))
}
