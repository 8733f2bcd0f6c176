package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Image is the file behind the disk of a sheep.
func (l *Lab) Image(s *Sheep) string { return filepath.Join(l.Dir, fmt.Sprintf("disk.%d", s.Port)) }

// GiveDisk puts the directory of a sheep on a file system of its own, XFS on a
// sparse file of size bytes. The sheep must not run yet.
func (l *Lab) GiveDisk(s *Sheep, size int64) {
	l.TB.Helper()
	Need(l.TB, "mkfs.xfs", "xfs_io", "losetup")
	NeedRoot(l.TB, "to mount")
	f, err := os.Create(l.Image(s))
	if err != nil {
		l.TB.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		l.TB.Fatal(err)
	}
	Tool(l.TB, "mkfs.xfs", "-q", l.Image(s))
	l.mount(l.Image(s), l.Meta(s))
}

// mount mounts a disk image on a directory until the end of the lab.
func (l *Lab) mount(image, dir string) {
	l.TB.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.TB.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		l.TB.Skipf("SKIPPED: cannot mount a loop device here: %v: %s", err, out)
	}
	l.mounts = append(l.mounts, dir)
}

// ExtraDisk makes a file system of its own that a sheep can keep replicas on.
func (l *Lab) ExtraDisk(name string, size int64) (dir string) {
	l.TB.Helper()
	Need(l.TB, "mkfs.xfs", "xfs_io", "losetup")
	NeedRoot(l.TB, "to mount")
	image := filepath.Join(l.Dir, name+".img")
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		l.TB.Fatal(err)
	}
	Tool(l.TB, "mkfs.xfs", "-q", image)
	dir = filepath.Join(l.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.TB.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		l.TB.Skipf("SKIPPED: cannot mount a loop device here: %v: %s", err, out)
	}
	l.mounts = append(l.mounts, dir)
	return dir
}

// FreezeDisk has whoever writes to the file system that is mounted on dir wait for so
// long. A process of its own ends that, whatever becomes of the test.
func (l *Lab) FreezeDisk(dir string, long time.Duration) (thawed <-chan error) {
	l.TB.Helper()
	Tool(l.TB, "xfs_io", "-x", "-c", "freeze", dir)
	thaw := exec.Command("sh", "-c", `sleep "$0"; exec xfs_io -x -c thaw "$1"`, fmt.Sprint(long.Seconds()), dir)
	if err := thaw.Start(); err != nil {
		Tool(l.TB, "xfs_io", "-x", "-c", "thaw", dir)
		l.TB.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- thaw.Wait() }()
	return done
}

// BreakDisk makes every access to a file system fail from now on.
func (l *Lab) BreakDisk(dir string) {
	l.TB.Helper()
	Tool(l.TB, "xfs_io", "-x", "-c", "shutdown", dir)
}

// CutPower shuts the file systems of sheep down, which drops what was not
// synced, kills the sheep, and mounts the disks as they are after that.
func (l *Lab) CutPower(all ...*Sheep) {
	l.TB.Helper()
	for _, s := range all {
		Tool(l.TB, "xfs_io", "-x", "-c", "shutdown", l.Meta(s))
	}
	l.Kill(all...)
	for _, s := range all {
		Tool(l.TB, "umount", l.Meta(s))
		l.released(l.Image(s))
		Tool(l.TB, "mount", "-o", "loop", l.Image(s), l.Meta(s))
	}
}

// released waits until no loop device has an image. The namespaces of mounts of
// processes that were killed end a moment after them; while one has the file
// system, mounting the image means that one again, dead as it is.
func (l *Lab) released(image string) {
	l.TB.Helper()
	l.Eventually(10*time.Second, "loop device of "+image+" is free", func() error {
		loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			return err
		}
		for _, file := range loops {
			if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == image {
				return fmt.Errorf("%s has it", file)
			}
		}
		return nil
	})
}

// unmount waits for the last users of a file system, which may just have been
// killed.
func unmount(dir string) error {
	for range 100 {
		err := syscall.Unmount(dir, 0)
		if err != syscall.EBUSY {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return syscall.EBUSY
}
