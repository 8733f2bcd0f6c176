package objectstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// Disk is the engine on this node's disks.
type Disk struct {
	opts  Options
	log   *slog.Logger
	lock  *os.File
	store uint64 // identity, in every header
	// incomplete is set by Open.
	incomplete bool
	meta       metadata // headers, and below it Badger
	headers    *headers
	journal    journal
	volumes    volumes
	metaQuota  quota
	cache      *cache
	spoiled    spoiled
	dirty      dirtySet
	guard      guard
	local      local
	ragged     ragged
	committer  committer

	dirtyBytes    atomic.Int64 // of maps that the metadata store lacks
	maxDirtyBytes int64
	freedBlocks   atomic.Int64 // that wait for a destage
	replaced      atomic.Int64 // those of them that have data in their place

	rotten, unread atomic.Uint64 // see Status
	defragmented   atomic.Uint64 // blocks

	plugMu   sync.Mutex // one change of the disks at a time
	nextDisk diskID     // guarded by plugMu once the store is open
	layout   format

	destageMu  sync.Mutex        // one destage at a time; guards what the metadata store has:
	tombstones map[objectKey]lsn // the last drop of objects that the log may have entries of
	checkpoint checkpoint
	kicks      chan struct{}
	wholly     atomic.Bool // the next destage takes everything

	closing atomic.Bool
	ending  atomic.Bool  // see Ending
	calls   sync.RWMutex // held for reading by every call, for writing by Close
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

var (
	_ sheepdog.Engine        = (*Disk)(nil)
	_ sheepdog.SpoiledEngine = (*Disk)(nil)
)

// begin keeps the store open until end. It never waits, so that a visitor of
// List may call back while Close waits for it.
func (d *Disk) begin() error {
	if !d.calls.TryRLock() || d.closing.Load() && d.endClosed() {
		return fmt.Errorf("store %s: %w", d.opts.Meta, sheepdog.ErrClosed)
	}
	return nil
}

func (d *Disk) end() { d.calls.RUnlock() }

func (d *Disk) endClosed() bool {
	d.end()
	return true
}

// kick asks for a destage; kickAll for one that takes everything.
func (d *Disk) kick() {
	select {
	case d.kicks <- struct{}{}:
	default:
	}
}

func (d *Disk) kickAll() {
	d.wholly.Store(true)
	d.kick()
}

// crowded reports whether more replaced blocks wait to be freed than part (0 to 1) of
// the bound. Blocks that were dropped or zeroed wait as well, but nobody took space
// in their place: no writer has to wait for them.
func (d *Disk) crowded(part float64) bool { return d.exceeds(d.replaced.Load(), part) }

// enough blocks that wait to be freed are much in any store.
const enough = 128 << 20 / blockSize

// exceeds reports whether blocks are more than part of the bound.
func (d *Disk) exceeds(blocks int64, part float64) bool {
	return float64(blocks) > part*enough && d.ofBound(blocks) > part // the first costs less
}

// ofBound is blocks as a part of the bound: 128 MiB or an eighth of what is in use.
func (d *Disk) ofBound(blocks int64) float64 {
	return float64(blocks) / max(enough, float64(d.volumes.usedBlocks()/8))
}

// destager runs until the store closes.
func (d *Disk) destager(ctx context.Context) {
	defer d.done.Done()
	giveWay()
	tick := time.NewTicker(d.opts.DestageEvery)
	defer tick.Stop()
	turn := time.NewTicker(localFor)
	defer turn.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-turn.C:
			d.local.forget()
			continue
		case <-d.kicks:
		case <-tick.C:
			if err := d.trimIdle(func() bool { return len(d.kicks) > 0 || ctx.Err() != nil }); err != nil {
				d.log.Error("unused space could not be given back; it will be tried again", "store", d.opts.Meta, "error", err)
			}
			if d.freedBlocks.Load() == 0 {
				continue
			}
			d.wholly.Store(true)
		}
		if err := d.destage(d.wholly.Swap(false)); err != nil {
			d.log.Error("destage failed; it will be tried again", "store", d.opts.Meta, "error", err)
		}
	}
}

// segmentMaker makes segments of the log before they are needed, until the store
// closes: filling one with zeros and syncing it takes longer than writing it.
func (d *Disk) segmentMaker(ctx context.Context) {
	defer d.done.Done()
	for ctx.Err() == nil && d.journal.makeEarly(d.opts.LogReadyBytes) {
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.journal.ahead:
			d.journal.makeAhead()
		}
	}
}

// Flush implements sheepdog.Engine.
func (d *Disk) Flush() error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	return d.flush()
}

// flush makes everything applied so far durable: extents first, because the log
// then claims that its entries are.
func (d *Disk) flush() error {
	upto := lsn(d.journal.applied.Load())
	if lsn(d.journal.durable.Load()) >= upto {
		// A destage may have brought the log that far without a disk that failed.
		return cmp.Or(d.journal.failed(), d.volumes.lost())
	}
	if err := d.volumes.sync(); err != nil {
		return err
	}
	return d.journal.sync(upto)
}

// Close destages, syncs and lets go of everything; then the next Open is quick.
// It waits for calls that run.
func (d *Disk) Close() error {
	if d.closing.Swap(true) {
		return fmt.Errorf("store %s: %w", d.opts.Meta, sheepdog.ErrClosed)
	}
	d.calls.Lock()
	defer d.calls.Unlock()
	d.cancel()
	d.done.Wait()
	return errors.Join(d.settle(), d.release())
}

// metaFailed takes the store out of service because its metadata cannot be kept
// or read. It may be called by anybody, again and again.
func (d *Disk) metaFailed(err error) {
	_ = d.journal.fail(metaError("keep maps", withRemedy(err)))
}

// Abandon ends a store that is out of service, and touches its disks no more:
// they may not answer, and Badger would try for ever to write what it has in
// memory. Locks and files stay until the process ends.
func (d *Disk) Abandon() {
	d.closing.Store(true)
	d.cancel()
}

// settle leaves a store without a log to replay, and with a map of its space.
// If there is no space for that, the next Open has more to do.
func (d *Disk) settle() error {
	if err := d.journal.failed(); err != nil {
		return err
	}
	if err := d.flush(); err != nil {
		return err
	}
	d.journal.seal()
	err := d.destage(true)
	if err == nil {
		err = d.saveSpace()
	}
	if errors.Is(err, sheepdog.ErrNoSpace) {
		d.log.Warn("no space to settle; the log is replayed at the next start", "store", d.opts.Meta, "err", err)
		return nil
	}
	return err
}

// release closes what is open, in whatever state it is.
func (d *Disk) release() error {
	errs := []error{d.journal.close(), d.volumes.close()}
	if d.meta != nil {
		errs = append(errs, d.meta.Close())
	}
	if f, ok := d.opts.files.(io.Closer); ok {
		errs = append(errs, f.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}
