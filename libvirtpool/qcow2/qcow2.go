// Package qcow2 reads images in QEMU's qcow2 format, versions 2 and 3, so that
// they can be turned into raw volumes. It is no general driver: it does not
// write, and it refuses images that need other files or keys (backing files,
// external data, encryption) and zstd compression.
//
// Main type: Image.
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Magic is how every image begins.
const Magic = "QFI\xfb"

// Limits of what is read.
const (
	minClusterBits = 9
	maxClusterBits = 21
	maxL1          = 32 << 20 // bytes of the first table, QEMU's own limit
	maxSize        = 16 << 50
)

// ErrUnsupported is returned for images that need what this package has not.
var ErrUnsupported = errors.New("unsupported qcow2 image")

// ErrCorrupt is returned for images that contradict themselves, or end too early.
var ErrCorrupt = errors.New("damaged or incomplete qcow2 image")

// Is reports whether an image that begins with b is qcow2.
func Is(b []byte) bool { return len(b) >= len(Magic) && string(b[:len(Magic)]) == Magic }

// Image is what a guest sees of an image. It is not safe for concurrent use.
type Image struct {
	file        io.ReaderAt
	fileSize    int64
	size        uint64
	clusterBits uint
	l1          []uint64

	l2At uint64   // file offset of the table in l2; 0: none
	l2   []uint64 // the table used last

	unpackedAt uint64 // table entry of the cluster in unpacked; 0: none
	unpacked   []byte // the compressed cluster used last
}

// header is the fixed part of the first cluster, big-endian.
type header struct {
	Magic, Version      uint32
	BackingOffset       uint64
	BackingSize         uint32
	ClusterBits         uint32
	Size                uint64
	CryptMethod, L1Size uint32
	L1Offset            uint64
	RefcountOffset      uint64
	RefcountClusters    uint32
	Snapshots           uint32
	SnapshotsOffset     uint64
}

// Incompatible features of version 3.
const (
	featureDirty    = 1 << 0 // only the reference counts are stale
	featureExternal = 1 << 2
	featureCompress = 1 << 3
	featureExtended = 1 << 4
)

const (
	headerSize     = 72
	headerSizeV3   = 104
	offsetMask     = 0x00fffffffffffe00
	entryCopied    = 1 << 63
	entryPacked    = 1 << 62
	entryZero      = 1 // version 3: reads as zeros, whatever is allocated
	sectorSize     = 512
	compressionRaw = 0 // deflate
)

// Open reads the header and the first table of an image of fileSize bytes.
func Open(file io.ReaderAt, fileSize int64) (*Image, error) {
	img := &Image{file: file, fileSize: fileSize}
	var h header
	if err := binary.Read(io.NewSectionReader(file, 0, min(fileSize, headerSize)), binary.BigEndian, &h); err != nil {
		return nil, fmt.Errorf("%w: it ends within the header", ErrCorrupt)
	}
	if err := img.check(&h); err != nil {
		return nil, err
	}
	img.size, img.clusterBits = h.Size, uint(h.ClusterBits)
	return img, img.readL1(&h)
}

func (img *Image) check(h *header) error {
	switch {
	case h.Magic != binary.BigEndian.Uint32([]byte(Magic)):
		return fmt.Errorf("%w: no qcow2 header", ErrCorrupt)
	case h.Version != 2 && h.Version != 3:
		return fmt.Errorf("%w: version %d", ErrUnsupported, h.Version)
	case h.BackingOffset != 0:
		return fmt.Errorf("%w: it has a backing file; flatten it first (qemu-img convert)", ErrUnsupported)
	case h.CryptMethod != 0:
		return fmt.Errorf("%w: it is encrypted", ErrUnsupported)
	case h.ClusterBits < minClusterBits || h.ClusterBits > maxClusterBits:
		return fmt.Errorf("%w: clusters of 2^%d bytes", ErrCorrupt, h.ClusterBits)
	case h.Size > maxSize:
		return fmt.Errorf("%w: a disk of %d bytes", ErrUnsupported, h.Size)
	case h.Version == 3:
		return img.checkFeatures()
	}
	return nil
}

// checkFeatures looks at what version 3 adds to the header.
func (img *Image) checkFeatures() error {
	b := make([]byte, headerSizeV3+1)
	n, err := img.file.ReadAt(b[:min(int64(len(b)), img.fileSize)], 0)
	if n < headerSizeV3 {
		return fmt.Errorf("%w: it ends within the header (%v)", ErrCorrupt, err)
	}
	features := binary.BigEndian.Uint64(b[72:])
	length := binary.BigEndian.Uint32(b[100:])
	switch {
	case features&featureExternal != 0:
		return fmt.Errorf("%w: its data are in another file", ErrUnsupported)
	case features&featureExtended != 0:
		return fmt.Errorf("%w: it has subclusters; convert it without extended_l2", ErrUnsupported)
	case features&^(featureDirty|featureCompress) != 0:
		return fmt.Errorf("%w: features %#x", ErrUnsupported, features)
	case features&featureCompress != 0 && length > headerSizeV3 && b[headerSizeV3] != compressionRaw:
		return fmt.Errorf("%w: it is compressed with zstd; convert it with compression_type=zlib", ErrUnsupported)
	}
	return nil
}

func (img *Image) readL1(h *header) error {
	perEntry := uint64(1) << (2*img.clusterBits - 3) // bytes of disk that an entry covers
	need := (img.size + perEntry - 1) / perEntry
	if need > uint64(h.L1Size) || uint64(h.L1Size)*8 > maxL1 {
		return fmt.Errorf("%w: a first table of %d entries for a disk of %d bytes", ErrCorrupt, h.L1Size, img.size)
	}
	var err error
	img.l1, err = img.table(h.L1Offset, int(need))
	return err
}

// table reads n entries at a file offset.
func (img *Image) table(off uint64, n int) ([]uint64, error) {
	b := make([]byte, 0)
	if uint64(n)*8 > uint64(img.fileSize) || off > uint64(img.fileSize)-uint64(n)*8 {
		return nil, fmt.Errorf("%w: a table at %d is beyond its end at %d", ErrCorrupt, off, img.fileSize)
	}
	b = make([]byte, n*8)
	if _, err := img.file.ReadAt(b, int64(off)); err != nil && !(n == 0 && err == io.EOF) {
		return nil, fmt.Errorf("read a table of the image: %w", err)
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return out, nil
}

// Size is the size of the disk in bytes.
func (img *Image) Size() uint64 { return img.size }
