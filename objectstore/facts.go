package objectstore

import (
	"fmt"

	"sheepdog"
)

// Get implements sheepdog.Maintainer.
func (d *Disk) Get(name string) ([]byte, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	defer d.end()
	v, err := d.meta.Get(append([]byte{keyFact}, name...))
	if err != nil {
		return nil, metaError(fmt.Sprintf("read fact %q", name), err)
	}
	return v, nil
}

// Put implements sheepdog.Maintainer.
func (d *Disk) Put(name string, value []byte) error {
	if err := checkFact(name, value); err != nil {
		return err
	}
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	c := change{key: append([]byte{keyFact}, name...), value: append([]byte{}, value...)}
	err := d.meta.Room(1, c.size())
	if err == nil {
		err = d.meta.Commit([]change{c})
	}
	if err != nil {
		return metaError(fmt.Sprintf("keep fact %q", name), err)
	}
	return nil
}

// Usage implements sheepdog.Maintainer. Used counts blocks, the log and the
// metadata; Free leaves the reserve out.
func (d *Disk) Usage() (sheepdog.Usage, error) {
	if err := d.begin(); err != nil {
		return sheepdog.Usage{}, err
	}
	defer d.end()
	u := sheepdog.Usage{Used: d.volumes.usedBlocks()*blockSize + d.journal.allocated() + d.meta.Size()}
	for _, v := range d.volumes.all() {
		if !v.takes() {
			continue
		}
		free, err := v.freeBytes()
		if err != nil {
			return u, err
		}
		u.Free += free
	}
	return u, nil
}
