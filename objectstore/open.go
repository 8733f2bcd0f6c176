package objectstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/internal/kvcheck"
)

// Open opens a store, making it if Meta is empty. It refuses a directory that
// another process uses (sheepdog.ErrBusy), and anything of another format
// version, untouched. A disk that cannot be read is left out: its blocks are
// sheepdog.ErrIO.
func Open(opts Options) (*Disk, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Disk{
		opts:          opts,
		log:           opts.Logger,
		cache:         newCache(opts.MapCacheBytes),
		spoiled:       spoiled{keys: make(map[objectKey]bool), more: make(chan struct{})},
		maxDirtyBytes: opts.MapCacheBytes / 3 * 4,
		kicks:         make(chan struct{}, 1),
		tombstones:    make(map[objectKey]lsn),
		volumes:       volumes{noSync: opts.NoSync},
		metaQuota:     quota{fs: opts.files, dir: opts.Meta, reserve: uint64(opts.ReserveBytes) / 2},
	}
	d.journal.init()
	d.journal.broken = opts.OnFailed
	if err := d.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", withRemedy(err)), d.release())
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.done.Add(4)
	if opts.DefragmentRate > 0 {
		d.ragged.wake = make(chan struct{}, 1)
		d.done.Add(1)
		go d.defragmenter(ctx)
	}
	go d.destager(ctx)
	go d.segmentMaker(ctx)
	go d.writeBehind(ctx)
	go d.metaVerifier(ctx)
	return d, nil
}

func (d *Disk) open() error {
	o := &d.opts
	err := o.files.MkdirAll(o.Meta)
	if err != nil {
		return diskError("make "+o.Meta, err)
	}
	if d.lock, err = lockDir(o.Meta); err != nil {
		return err
	}
	f, err := openFormat(o)
	if err != nil {
		return err
	}
	d.store, d.layout = f.store, f
	if d.meta, err = o.openMeta(filepath.Join(o.Meta, MetaDir), metaOptions{o.NoSync, o.Logger, d.metaFailed}); err != nil {
		return err
	}
	d.meta = sealed{d.meta, d.metaFailed}
	d.headers, err = openHeaders(d.meta, headerLogOptions{o.files, o.Meta, f.store, o.NoSync, o.headerSlack})
	if d.meta = d.headers; err != nil {
		return metaError("read the headers of objects", err)
	}
	if err := finishLarge(d.meta); err != nil {
		return metaError("finish a commit", err)
	}
	ck, err := d.readCheckpoint()
	if err != nil {
		return err
	}
	if err := d.openDisks(f); err != nil {
		return err
	}
	if err := d.recover(f, ck); err != nil {
		return err
	}
	if err := d.reserve(); err != nil {
		return err
	}
	return d.loseMissing()
}

// startAnew is what to do with a store that is damaged.
const startAnew = "remove all of META and of its disks, and the node comes back as a new one and recovers from the others"

// verifyEvery is how often the metadata are verified as a whole, as they are at the
// start: pages of them are read from the disk anew.
const verifyEvery = 24 * time.Hour

func (d *Disk) metaVerifier(ctx context.Context) {
	defer d.done.Done()
	t := time.NewTicker(verifyEvery)
	defer t.Stop()
	d.verifyMeta(ctx, t.C)
}

// verifyMeta verifies the metadata at each tick, and ends the store when they are found
// damaged.
func (d *Disk) verifyMeta(ctx context.Context, ticks <-chan time.Time) {
	for {
		select {
		case <-ticks:
		case <-ctx.Done():
			return
		}
		if err := d.meta.Verify(); err != nil {
			d.metaFailed(err)
			return
		}
	}
}

// withRemedy adds what to do to an error that says that something is damaged.
func withRemedy(err error) error {
	if errors.Is(err, errBadCRC) || errors.Is(err, kvcheck.ErrDamaged) {
		return fmt.Errorf("%w; %s", err, startAnew)
	}
	return err
}

// loseMissing gives up what is on disks that are left out, so that other
// replicas replace it. Should such a disk come back, what was not replaced by
// then can be read again, but is older than what any other replica has.
func (d *Disk) loseMissing() error {
	missing, err := d.missing()
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		d.log.Error("what a missing disk held is fetched from other nodes", "disk", missing[id])
		if err := d.giveUp(id); err != nil {
			return fmt.Errorf("lose missing disk %s: %w", missing[id], err)
		}
	}
	d.incomplete, err = d.lacking()
	return err
}

// Incomplete reports whether the store lacked something when it was opened: what
// was on a disk that it was opened without, or was given up with one earlier.
func (d *Disk) Incomplete() bool { return d.incomplete }

func (d *Disk) readCheckpoint() (checkpoint, error) {
	b, err := d.meta.Get(checkpoint{}.change().key)
	if err != nil {
		return checkpoint{}, metaError("read the checkpoint", err)
	}
	return decodeCheckpoint(b)
}

// recover brings the maps to where the log ends, and finds the free space.
func (d *Disk) recover(f format, ck checkpoint) error {
	j := &d.journal
	j.fs, j.dir, j.store, j.noSync, j.kick = d.opts.files, d.opts.Meta, f.store, d.opts.NoSync, d.kick
	j.segLen, j.form = f.segmentBlocks, newLogForm(logVersion, f.store)
	if _, ok := d.opts.files.(hostFiles); ok { // tests count operations in order
		j.ahead = make(chan struct{}, 1)
	}
	if !d.opts.NoSync {
		j.behind, d.volumes.behind = make(chan stretch, 1), make(chan stretch, behindRuns)
	}
	j.maxSegs = max(int(d.opts.LogBytes/int64(f.segmentBlocks)/blockSize), 4)
	d.checkpoint = ck
	if err := d.readTombstones(); err != nil {
		return err
	}
	var err error
	if j.remembered, err = d.knowsLog(ck); err != nil {
		return err
	}
	j.remember = d.rememberLog
	s, err := j.openSegments(ck)
	if err != nil {
		return err
	}
	if j.remembered && (j.made == 0 || len(s.segs) == 0 && ck.lastLSN == 0) {
		return fmt.Errorf("the log in %s is gone: %w", j.dir, errEmptied)
	}
	j.rooted = len(s.segs) == 0
	if err := s.readClaims(); err != nil {
		return err
	}
	r := newReplayer(d, s.claim)
	if err := j.replay(s, r.apply); err != nil {
		return err
	}
	last := max(j.logged, ck.lastLSN)
	j.gen = max(j.gen, ck.firstGen, ck.reserved)
	j.next = last + 1
	j.applied.Store(uint64(last))
	if len(j.live) == 0 {
		j.durable.Store(uint64(last))
	}
	clean, err := d.takeSpace(last)
	if err != nil || clean && len(j.live) == 0 {
		return err
	}
	return r.rebuildSpace()
}

func (d *Disk) readTombstones() error {
	err := d.meta.Scan(scan{prefix: []byte{keyTombstone}}, func(key, value []byte) (bool, error) {
		t, err := decodeTombstone(key, value)
		d.tombstones[t.key] = t.at
		return err == nil, err
	})
	if err != nil {
		return metaError("read tombstones", err)
	}
	return nil
}

// diskRecord is what the metadata store has of a disk.
//
//	version(1) weight(8) path
//
// A weight of 0 is of a disk that was unplugged: its id stays taken.
type diskRecord struct {
	weight uint64
	path   string
}

const diskRecordVersion = 1

func (r diskRecord) encode() []byte {
	b := append([]byte{diskRecordVersion}, make([]byte, 8)...)
	binary.LittleEndian.PutUint64(b[1:], r.weight)
	return append(b, r.path...)
}

func decodeDiskRecord(b []byte) (diskRecord, error) {
	if len(b) > 0 && b[0] != diskRecordVersion {
		return diskRecord{}, &versionError{what: "disk record", found: uint32(b[0]), want: diskRecordVersion}
	}
	if len(b) < 9 {
		return diskRecord{}, errTruncated
	}
	return diskRecord{weight: binary.LittleEndian.Uint64(b[1:]), path: string(b[9:])}, nil
}

// openDisks opens every disk that works and adds those that are new.
func (d *Disk) openDisks(f format) error {
	known, err := d.readDisks()
	if err != nil {
		return err
	}
	if len(known) == 0 && d.opts.Existing {
		return fmt.Errorf("%s held a store, and holds none any more: %w", d.opts.Meta, errEmptied)
	}
	var fresh []string
	next := diskID(0)
	for id := range known {
		next = max(next, id+1)
	}
	dirs, err := d.withPlugged(known)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		id, labelled, err := d.readLabel(dir)
		switch {
		case errors.Is(err, sheepdog.ErrIO):
			d.log.Error("disk does not work and is left out", "disk", dir, "error", err)
		case err != nil:
			return err
		case labelled && wasUnplugged(known, dir) && known[id].weight == 0:
			d.log.Warn("disk was unplugged and is left out; plug it again to use it", "disk", dir)
		case labelled:
			next = max(next, id+1)
			if err := d.openDisk(f, id, dir, known); err != nil {
				return err
			}
		case wasUnplugged(known, dir):
			d.log.Warn("disk was unplugged and is left out; plug it again to use it", "disk", dir)
		case isKnown(known, dir):
			d.log.Error("disk has lost its label, perhaps it is not mounted; it is left out", "disk", dir)
		default:
			fresh = append(fresh, dir)
		}
	}
	for i, dir := range fresh {
		// The label of another one of them: a link, or a mount, leads to the same place.
		if other, labelled, err := d.readLabel(dir); err != nil || labelled {
			return cmp.Or(err, fmt.Errorf("disk %s is disk %d under another name; give each directory once: %w", dir, other, sheepdog.ErrInvalid))
		}
		if err := d.addDisk(f, next+diskID(i), dir, known); err != nil {
			return err
		}
	}
	d.nextDisk = max(next+diskID(len(fresh)), 1)
	if len(d.volumes.all()) == 0 {
		return fmt.Errorf("no disk of %v works; the log says why: %w", d.opts.Disks, sheepdog.ErrIO)
	}
	return nil
}

// errEmptied is of a store of which a part is gone. To go on with the rest, or with
// nothing, would be to say that this is all there was.
var errEmptied = errors.New("if it is on a file system that is not mounted, mount it; if it is lost, remove all of META and of its disks: the node comes back as a new one, and recovers from the others")

// withPlugged is the disks that Open was told of and those plugged in later.
func (d *Disk) withPlugged(known map[diskID]diskRecord) ([]string, error) {
	dirs := slices.Clone(d.opts.Disks)
	for _, id := range slices.Sorted(maps.Keys(known)) {
		r := known[id]
		same := func(dir string) bool { return filepath.Clean(dir) == r.path }
		if r.weight == 0 || slices.ContainsFunc(dirs, same) {
			continue
		}
		now, err := d.movedTo(id, r.path)
		switch {
		case err != nil:
			return nil, err
		case now != "":
			d.log.Info("disk has another path now", "disk", now, "before", r.path)
		default:
			dirs = append(dirs, r.path)
		}
	}
	return dirs, nil
}

// movedTo is which of the disks that Open was told of is the one known by another
// path, "" if none is. One that is still at that path as well has been copied:
// another process may be writing there.
func (d *Disk) movedTo(id diskID, from string) (string, error) {
	for _, dir := range d.opts.Disks {
		if !d.labelledAs(dir, id) {
			continue
		}
		if d.labelledAs(from, id) {
			return "", fmt.Errorf("disk %s is a copy of %s, and only one of them may be used; remove the other, or if the whole node was copied, or the image of its machine cloned, let the copy start with an empty directory: %w", dir, from, sheepdog.ErrInvalid)
		}
		return dir, nil
	}
	return "", nil
}

// labelledAs looks for a disk without making anything.
func (d *Disk) labelledAs(dir string, want diskID) bool {
	names, err := d.opts.files.ReadDir(dir)
	if err != nil || !slices.Contains(names, diskLabel) {
		return false
	}
	id, labelled, err := d.readLabel(dir)
	return err == nil && labelled && id == want
}

func isKnown(known map[diskID]diskRecord, dir string) bool {
	for _, r := range known {
		if r.path == filepath.Clean(dir) && r.weight > 0 {
			return true
		}
	}
	return false
}

// wasUnplugged reports whether the last that is known of a directory is that it
// was unplugged.
func wasUnplugged(known map[diskID]diskRecord, dir string) bool {
	last, weight := -1, uint64(1)
	for id, r := range known {
		if r.path == filepath.Clean(dir) && int(id) > last {
			last, weight = int(id), r.weight
		}
	}
	return weight == 0
}

func (d *Disk) readDisks() (map[diskID]diskRecord, error) {
	known := make(map[diskID]diskRecord)
	err := d.meta.Scan(scan{prefix: []byte{keyDisk}}, func(key, value []byte) (bool, error) {
		r, err := decodeDiskRecord(value)
		if err == nil && len(key) != diskKeyLen {
			err = errTruncated
		}
		if err == nil {
			known[diskID(binary.BigEndian.Uint16(key[1:]))] = r
		}
		return err == nil, err
	})
	if err != nil {
		return nil, metaError("read the list of disks", err)
	}
	return known, nil
}

func (d *Disk) readLabel(dir string) (id diskID, labelled bool, err error) {
	if err := d.opts.files.MkdirAll(dir); err != nil {
		return 0, false, diskError("make "+dir, err)
	}
	name := filepath.Join(dir, diskLabel)
	b, err := readSmall(d.opts.files, name)
	if err != nil || b == nil {
		return 0, false, err
	}
	if id, err = decodeLabel(b, d.store); err != nil {
		return 0, false, fmt.Errorf("%s: %w", name, err)
	}
	return id, true, nil
}

// addDisk labels a new disk before the metadata store learns of it.
func (d *Disk) addDisk(f format, id diskID, dir string, known map[diskID]diskRecord) error {
	if err := writeSmall(d.opts.files, filepath.Join(dir, diskLabel), encodeLabel(d.store, id)); err != nil {
		return err
	}
	return d.openDisk(f, id, dir, known)
}

func (d *Disk) openDisk(f format, id diskID, dir string, known map[diskID]diskRecord) error {
	if d.volumes.find(id) != nil {
		return fmt.Errorf("disk %s is a copy of %s: %w", dir, d.volumes.find(id).dir, sheepdog.ErrInvalid)
	}
	v := &volume{id: id, dir: dir, store: d.store, fs: d.opts.files, space: newSpace(f.fileBlocks), onFailed: d.diskFailed}
	v.quota = quota{fs: d.opts.files, dir: dir, reserve: uint64(d.opts.ReserveBytes)}
	err := v.open()
	var total uint64
	if err == nil {
		total, _, err = d.opts.files.Space(dir)
		err = diskError("space of "+dir, err)
	}
	if errors.Is(err, sheepdog.ErrIO) {
		d.log.Error("disk does not work and is left out", "disk", dir, "error", err)
		return v.close()
	}
	if err != nil {
		return errors.Join(err, v.close())
	}
	r, ok := known[id]
	v.weight = max(r.weight, 1)
	if ok && r.path == filepath.Clean(dir) {
		d.volumes.add(v)
		return nil
	}
	if !ok {
		v.weight = max(total, 1)
	}
	if err := d.meta.Commit([]change{{diskKey(keyDisk, id), diskRecord{v.weight, filepath.Clean(dir)}.encode()}}); err != nil {
		return errors.Join(metaError("add a disk", err), v.close())
	}
	d.volumes.add(v)
	return nil
}
