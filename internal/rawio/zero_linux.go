package rawio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// zeroStep is how many bytes are written at once.
const zeroStep = 1 << 20

// WriteZeros writes n zeros to the beginning of an existing file, past the host's
// memory for files: it costs hardly any work, and drives nothing else out. They are
// durable after a sync of the file. Where the file cannot be written in this way the
// error wraps errors.ErrUnsupported, and some of the zeros may be there.
func WriteZeros(name string, n int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("direct I/O: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	zeros, err := unix.Mmap(-1, 0, zeroStep, unix.PROT_READ, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return fmt.Errorf("memory for zeros: %w", err)
	}
	defer unix.Munmap(zeros)
	for off := int64(0); off < n; off += zeroStep {
		if _, err := f.WriteAt(zeros[:min(zeroStep, n-off)], off); errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("direct I/O: %w", errors.ErrUnsupported) // other alignment
		} else if err != nil {
			return err
		}
	}
	return nil
}
