package qcow2

import (
	"compress/flate"
	"errors"
	"fmt"
	"io"
)

// ReadAt reads what the guest sees.
func (img *Image) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	for n < len(p) {
		at := uint64(off) + uint64(n)
		if at >= img.size {
			return n, io.EOF
		}
		within := at & (img.clusterSize() - 1)
		piece := min(img.clusterSize()-within, uint64(len(p)-n), img.size-at)
		if err := img.readCluster(p[n:n+int(piece)], at-within, within); err != nil {
			return n, err
		}
		n += int(piece)
	}
	return n, nil
}

func (img *Image) clusterSize() uint64 { return 1 << img.clusterBits }

// readCluster reads a part of the cluster that begins at a disk offset.
func (img *Image) readCluster(p []byte, cluster, within uint64) error {
	entry, err := img.entry(cluster)
	if err != nil {
		return err
	}
	host := entry & offsetMask
	switch {
	case entry&entryPacked != 0:
		data, err := img.unpack(entry)
		if err != nil {
			return fmt.Errorf("cluster at %d: %w", cluster, err)
		}
		copy(p, data[within:])
		return nil
	case host == 0 || entry&entryZero != 0:
		clear(p)
		return nil
	}
	if host+within+uint64(len(p)) > uint64(img.fileSize) {
		return img.readLast(p, host+within)
	}
	_, err = img.file.ReadAt(p, int64(host+within))
	return err
}

// readLast reads at the end of the file, which may lack a part of its last
// cluster, but not a whole one.
func (img *Image) readLast(p []byte, at uint64) error {
	if at/img.clusterSize()*img.clusterSize() >= uint64(img.fileSize) {
		return fmt.Errorf("%w: data at %d are beyond its end at %d; was it uploaded in one stream?", ErrCorrupt, at, img.fileSize)
	}
	clear(p)
	if at >= uint64(img.fileSize) {
		return nil
	}
	_, err := img.file.ReadAt(p[:uint64(img.fileSize)-at], int64(at))
	return err
}

// entry is the second table's entry of a cluster; 0: not allocated.
func (img *Image) entry(cluster uint64) (uint64, error) {
	index := cluster >> img.clusterBits
	perTable := img.clusterSize() / 8
	at := img.l1[index/perTable] & offsetMask
	if at == 0 {
		return 0, nil
	}
	if at != img.l2At {
		table, err := img.table(at, int(perTable))
		if err != nil {
			return 0, err
		}
		img.l2At, img.l2 = at, table
	}
	return img.l2[index%perTable], nil
}

// unpack inflates a compressed cluster. Its entry has the file offset in the low
// bits and the number of further sectors above them.
func (img *Image) unpack(entry uint64) ([]byte, error) {
	if entry == img.unpackedAt {
		return img.unpacked, nil
	}
	shift := 62 - (img.clusterBits - 8)
	at := entry & (1<<shift - 1)
	sectors := (entry &^ (entryCopied | entryPacked)) >> shift
	length := (sectors+1)*sectorSize - at%sectorSize
	if at >= uint64(img.fileSize) {
		return nil, fmt.Errorf("%w: data at %d are beyond its end at %d", ErrCorrupt, at, img.fileSize)
	}
	r := flate.NewReader(io.NewSectionReader(img.file, int64(at), int64(min(length, uint64(img.fileSize)-at))))
	out := make([]byte, img.clusterSize())
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	img.unpackedAt, img.unpacked = entry, out
	return out, nil
}
