package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// All nodes lose power at once while writes are under way: their file systems
// are shut down under them, which drops what was not synced. What was flushed is
// there afterwards.
func TestPowerCutOfAllNodes(t *testing.T) {
	need(t, "mkfs.xfs", "xfs_io", "losetup")
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root to mount")
	}
	w := &world{t: t, bin: mustAbs(t, "../../bin")}
	var err error
	if w.dir, err = os.MkdirTemp("", "shp"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	for i := range 3 {
		s := &sheep{port: freePort(t), zone: i}
		w.sheep = append(w.sheep, s)
		w.mountDisk(s)
		w.run(s)
	}
	w.format(3)
	w.dog("vdi", "create", "v", "256M")
	for round := range 2 {
		data := bytes.Repeat([]byte{byte(round + 1)}, 300000)
		for i := range 10 {
			at := strconv.Itoa(i * 20 << 20)
			if _, errText, code := w.dogIn(w.sheep[i%3], data, "vdi", "write", "v", at); code != 0 {
				t.Fatalf("write: %s", errText) // dog's writes are flushed when it returns
			}
		}
		// More writes are under way at the moment of the cut.
		var wg sync.WaitGroup
		wg.Go(func() { w.dogIn(w.sheep[0], bytes.Repeat([]byte{99}, 30<<20), "vdi", "write", "v", "210000000") })
		time.Sleep(150 * time.Millisecond)
		for _, s := range w.sheep {
			tool(t, "xfs_io", "-x", "-c", "shutdown", w.mount(s))
		}
		for _, s := range w.sheep {
			w.kill(s)
		}
		wg.Wait()
		for _, s := range w.sheep {
			tool(t, "umount", w.mount(s))
			tool(t, "mount", "-o", "loop", w.disk(s), w.mount(s))
		}
		for _, s := range w.sheep {
			w.run(s)
		}
		w.recovered(time.Minute)
		for i := range 10 {
			got := w.dog("vdi", "read", "v", strconv.Itoa(i*20<<20), strconv.Itoa(len(data)))
			if got != string(data) {
				t.Fatalf("round %d: flushed piece %d is not there after the power cut", round, i)
			}
		}
		w.checked()
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// mount is where the metadata directory of a sheep has a file system of its own.
func (w *world) mount(s *sheep) string { return w.meta(s) }

func (w *world) disk(s *sheep) string { return filepath.Join(w.dir, fmt.Sprintf("disk.%d", s.port)) }

func (w *world) mountDisk(s *sheep) {
	w.t.Helper()
	f, err := os.Create(w.disk(s))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := f.Truncate(2 << 30); err != nil {
		w.t.Fatal(err)
	}
	f.Close()
	tool(w.t, "mkfs.xfs", "-q", w.disk(s))
	if err := os.Mkdir(w.mount(s), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", w.disk(s), w.mount(s)).CombinedOutput(); err != nil {
		w.t.Skipf("SKIPPED: cannot mount a loop device here: %v: %s", err, out)
	}
	w.t.Cleanup(func() {
		if s.cmd != nil && s.alive() {
			s.cmd.Process.Kill()
			<-s.done
		}
		exec.Command("umount", w.mount(s)).Run()
	})
}
