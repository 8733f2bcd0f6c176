package objectstore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sheepdog"
)

// DiskState is what becomes of a disk.
type DiskState string

// The states of a disk.
const (
	DiskOK      DiskState = "ok"
	DiskFailed  DiskState = "failed"
	DiskLeaving DiskState = "leaving"
	DiskMissing DiskState = "missing" // since the store was opened: other nodes fill in for it
)

// DiskUsage is the space of one disk in bytes, like sheepdog.Usage.
type DiskUsage struct {
	Dir        string
	Used, Free uint64
	State      DiskState
}

// Disks lists the disks of the store in the order in which they came.
func (d *Disk) Disks() ([]DiskUsage, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	defer d.end()
	var out []DiskUsage
	for _, v := range d.volumes.all() {
		u := DiskUsage{Dir: v.dir, Used: v.space.usedBlocks() * blockSize, State: DiskOK}
		switch {
		case v.failed.Load():
			u.State = DiskFailed
		case v.leaving.Load():
			u.State = DiskLeaving
		default:
			free, err := v.freeBytes()
			if err != nil {
				return nil, err
			}
			u.Free = free
		}
		out = append(out, u)
	}
	missing, err := d.missing()
	if err != nil {
		return nil, err
	}
	for _, dir := range slices.Sorted(maps.Values(missing)) {
		out = append(out, DiskUsage{Dir: dir, State: DiskMissing})
	}
	return out, nil
}

// missing are the disks, by number, that the store had and was opened without. What
// was on them is given up.
func (d *Disk) missing() (map[diskID]string, error) {
	known, err := d.readDisks()
	if err != nil {
		return nil, err
	}
	out := make(map[diskID]string)
	for id, r := range known {
		if r.weight > 0 && d.volumes.find(id) == nil {
			out[id] = r.path
		}
	}
	return out, nil
}

// forgetMissing lets go of a disk that is missing from a directory; false if none is.
func (d *Disk) forgetMissing(dir string) (bool, error) {
	missing, err := d.missing()
	if err != nil {
		return false, err
	}
	for id, path := range missing {
		if path == filepath.Clean(dir) {
			if err := d.commitGone(id, dir); err != nil {
				return false, err
			}
			d.log.Info("missing disk was forgotten", "disk", dir)
			return true, nil
		}
	}
	return false, nil
}

// freeBytes is what the disk can still take, without the reserve.
func (v *volume) freeBytes() (uint64, error) {
	_, free, err := v.fs.Space(v.dir)
	if err != nil {
		return 0, diskError("space of "+v.dir, err)
	}
	free += v.space.slackBlocks() * blockSize
	return free - min(free, v.quota.reserve), nil
}

// diskAt finds a disk by its directory.
func (d *Disk) diskAt(dir string) (*volume, error) {
	for _, v := range d.volumes.all() {
		if filepath.Clean(v.dir) == filepath.Clean(dir) {
			return v, nil
		}
	}
	return nil, fmt.Errorf("disk %s: %w", dir, sheepdog.ErrNotFound)
}

// Plug adds an empty disk to an open store, which remembers it. What an earlier
// disk of this store left in the directory is removed; anything else is refused
// with ErrInvalid, a disk that is there already with ErrExists. A disk that is
// missing from that directory is forgotten: the new one replaces it.
func (d *Disk) Plug(dir string) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	d.plugMu.Lock()
	defer d.plugMu.Unlock()
	if _, err := d.diskAt(dir); err == nil {
		return fmt.Errorf("plug disk %s: %w", dir, sheepdog.ErrExists)
	}
	id := d.nextDisk
	if int(id) >= maxDisks {
		return fmt.Errorf("plug disk %s: no number is left for it: %w", dir, sheepdog.ErrInvalid)
	}
	err := d.clearDisk(dir)
	if err == nil {
		err = d.meta.Room(1, 2*pileKeyLen+len(dir))
	}
	if err == nil {
		_, err = d.forgetMissing(dir)
	}
	if err == nil {
		d.nextDisk++
		err = d.addDisk(d.layout, id, dir, nil)
	}
	if err == nil && d.volumes.find(id) == nil {
		err = fmt.Errorf("it does not work: %w", sheepdog.ErrIO)
	}
	if err != nil {
		return fmt.Errorf("plug disk %s: %w", dir, err)
	}
	d.log.Info("disk was plugged in", "disk", dir)
	return nil
}

// clearDisk removes what an earlier disk of this store left in a directory.
func (d *Disk) clearDisk(dir string) error {
	id, labelled, err := d.readLabel(dir)
	if err != nil {
		return err
	}
	if v := d.volumes.find(id); labelled && v != nil {
		return fmt.Errorf("it is disk %s under another name: %w", v.dir, sheepdog.ErrExists)
	}
	fs := d.opts.files
	names, err := fs.ReadDir(dir)
	if err != nil {
		return diskError("list "+dir, err)
	}
	for _, name := range names {
		if isExtents(name) && !labelled {
			return fmt.Errorf("it has data that are not of this node; remove %s first: %w", name, sheepdog.ErrInvalid)
		}
	}
	return d.removeDisk(dir, names)
}

func isExtents(name string) bool { return strings.HasPrefix(name, "extents.") }

// removeDisk removes the files of a disk, its label last: as long as it is there
// they are known to be ours.
func (d *Disk) removeDisk(dir string, names []string) error {
	fs := d.opts.files
	remove := func(name string) error {
		if err := fs.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return diskError("clear "+dir, err)
		}
		return nil
	}
	for _, name := range names {
		if !isExtents(name) {
			continue
		}
		if err := remove(name); err != nil {
			return err
		}
	}
	if err := remove(diskLabel); err != nil {
		return err
	}
	return diskError("clear "+dir, fs.SyncDir(dir))
}

// Unplug takes a disk out of an open store. One that works is emptied first:
// its blocks move to the other disks, which must have room for them
// (sheepdog.ErrNoSpace). The blocks of a failed one are lost; see LoseDisk. A
// missing one is forgotten. The last disk that works cannot be unplugged.
func (d *Disk) Unplug(dir string) error {
	if err := d.begin(); err != nil {
		return fmt.Errorf("unplug: %w", err)
	}
	defer d.end()
	if !d.plugMu.TryLock() {
		return fmt.Errorf("unplug disk %s: disks are being changed: %w", dir, sheepdog.ErrBusy)
	}
	defer d.plugMu.Unlock()
	if forgotten, err := d.forgetMissing(dir); forgotten || err != nil {
		return err
	}
	v, err := d.diskAt(dir)
	if err != nil {
		return fmt.Errorf("unplug: %w", err)
	}
	if err := d.empty(v); err != nil {
		return fmt.Errorf("unplug disk %s: %w", dir, err)
	}
	if err := d.forgetDisk(v); err != nil {
		v.leaving.Store(false)
		return fmt.Errorf("unplug disk %s: %w", dir, err)
	}
	d.log.Info("disk was unplugged", "disk", dir)
	return nil
}

// empty moves or loses the blocks of a disk. After an error the disk is as it
// was.
func (d *Disk) empty(v *volume) error {
	if v.failed.Load() {
		if err := d.giveUp(v.id); err != nil {
			return err
		}
		v.retired.Store(true)
		return nil
	}
	others := func(o *volume) bool { return o != v && o.takes() }
	if !slices.ContainsFunc(d.volumes.all(), others) { // writers must not see it leave
		return errLastDisk
	}
	v.depart()
	err := d.hasRoomWithout(v)
	if err == nil {
		err = d.moveOff(v)
	}
	if err != nil {
		v.leaving.Store(false)
	}
	return err
}

var errLastDisk = fmt.Errorf("it is the last one that works: %w", sheepdog.ErrInvalid)

func (d *Disk) hasRoomWithout(v *volume) error {
	if !d.volumes.healthy() {
		return errLastDisk
	}
	room := uint64(0)
	for _, o := range d.volumes.all() {
		if o.takes() {
			free, err := o.freeBytes()
			if err != nil {
				return err
			}
			room += free
		}
	}
	if used := v.space.usedBlocks() * blockSize; used > room {
		return fmt.Errorf("it holds %d bytes, the other disks have room for %d: %w", used, room, sheepdog.ErrNoSpace)
	}
	return nil
}

// moveOff empties a disk. What writers had put there before it was leaving is
// in use until it is in the maps, so the disk is empty when nothing is in use.
func (d *Disk) moveOff(v *volume) error {
	for v.space.usedBlocks() > 0 {
		if v.failed.Load() {
			return fmt.Errorf("it failed meanwhile: %w", sheepdog.ErrIO)
		}
		if err := d.barrier(); err != nil {
			return err
		}
		if err := d.sweepMoves(v); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disk) sweepMoves(v *volume) error {
	piles, err := d.pilesOn(v.id)
	if err != nil {
		return err
	}
	for i, obj := range piles {
		if err := d.movePile(obj, v.id); err != nil {
			return fmt.Errorf("object %s: %w", obj, err)
		}
		if i%sweepPiles == sweepPiles-1 {
			if err := d.destage(true); err != nil {
				return err
			}
		}
	}
	return d.destage(true)
}

// forgetDisk takes the volume out of the set, durably, and removes its files if
// it was emptied. No destage may be going on that chose the volume before.
func (d *Disk) forgetDisk(v *volume) error {
	d.destageMu.Lock()
	defer d.destageMu.Unlock()
	if err := d.commitGone(v.id, v.dir); err != nil {
		return err
	}
	d.volumes.remove(v)
	d.guard.wait()
	err := v.close()
	if !v.failed.Load() {
		names, lerr := d.opts.files.ReadDir(v.dir)
		err = errors.Join(err, lerr, d.removeDisk(v.dir, names))
	}
	if err != nil {
		d.log.Warn("unplugged disk is not left tidy", "disk", v.dir, "error", err)
	}
	return nil
}

func (d *Disk) commitGone(id diskID, dir string) error {
	return d.commitSmall("forget a disk", change{diskKey(keyDisk, id), diskRecord{0, filepath.Clean(dir)}.encode()})
}

// commitSmall commits one change if there is room for it.
func (d *Disk) commitSmall(what string, c change) error {
	err := d.meta.Room(1, c.size())
	if err == nil {
		err = d.meta.Commit([]change{c})
	}
	if err != nil {
		return metaError(what, err)
	}
	return nil
}
