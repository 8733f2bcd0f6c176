package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The node that coordinates stands still again and again while a client of
// another gateway writes and verifies: nothing is lost, and the node serves
// nothing stale when it wakes up.
func TestCoordinatorPausesUnderVerifiedLoad(t *testing.T) {
	need(t, "fio")
	w := start(t, 3)
	w.format(3)
	w.dog("vdi", "create", "vm", "64M")
	paused := w.sheep[1]
	w.holdOpen(paused, "vm")
	var wg sync.WaitGroup
	wg.Go(func() {
		out := fio(t, w.uri(w.sheep[0], "vm"), "--rw=randwrite", "--verify=crc32c", "--verify_backlog=256", "--fsync=16", "--iodepth=8", "--runtime=14", "--time_based=1", "--do_verify=1")
		t.Logf("longest I/O %v", maxLatency(t, out))
	})
	for range 3 {
		time.Sleep(time.Second)
		w.signal(paused, syscall.SIGSTOP)
		time.Sleep(2500 * time.Millisecond) // longer than detection
		w.signal(paused, syscall.SIGCONT)
	}
	wg.Wait()
	w.recovered(60 * time.Second)
	w.checked()
}

func (w *world) signal(s *sheep, sig syscall.Signal) {
	w.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		w.t.Fatal(err)
	}
}

// Bits flip in the extent files of one node: no client ever gets them, the check
// finds and repairs them, and then there are none.
func TestFlippedBitsAreFoundAndHealed(t *testing.T) {
	w := start(t, 3)
	w.format(3)
	raw := image(t, 64<<20)
	w.dog("vdi", "import", raw, "v")
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	victim := w.sheep[1]
	flipped := w.flip(victim, 20)
	if flipped == 0 {
		t.Fatal("found no data to damage")
	}
	_, errText, code := w.dogAt(w.first(), "cluster", "check", "--dry-run")
	if code != 1 {
		t.Fatalf("the check did not notice %d flipped bits: exit %d %s", flipped, code, errText)
	}
	for _, s := range w.sheep {
		out, errText, code := w.dogAt(s, "vdi", "read", "v")
		if code != 0 || !bytes.Equal([]byte(out), want) {
			t.Fatalf("read through port %d: exit %d %s", s.port, code, errText)
		}
	}
	if out, errText, code := w.dogAt(w.first(), "cluster", "check"); code != 0 {
		t.Fatalf("check did not repair everything: exit %d\n%s%s", code, out, errText)
	}
	w.checked()
}

// flip inverts a bit in up to n blocks that hold data in the extents of a sheep.
func (w *world) flip(s *sheep, n int) (done int) {
	w.t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	err := filepath.WalkDir(filepath.Join(w.meta(s), "obj"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		block := make([]byte, 4096)
		for off := int64(4096); done < n; off += 4096 {
			if k, _ := f.ReadAt(block, off); k < len(block) {
				return nil
			}
			if len(bytes.Trim(block, "\x00")) == 0 || r.IntN(20) != 0 {
				continue
			}
			block[r.IntN(len(block))] ^= 1 << r.IntN(8)
			if _, err := f.WriteAt(block, off); err != nil {
				return err
			}
			done++
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return done
}

// Garbage on every port, TCP and UDP, disturbs nobody.
func TestGarbageOnEveryPort(t *testing.T) {
	w := start(t, 3)
	w.format(3)
	w.dog("vdi", "create", "v", "64M")
	junk := make([]byte, 64<<10)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range junk {
		junk[i] = byte(r.Uint32())
	}
	for _, s := range w.sheep {
		for range 20 {
			send(t, "tcp", fmt.Sprintf("127.0.0.1:%d", s.port), junk)
			send(t, "udp", fmt.Sprintf("127.0.0.1:%d", s.port), junk[:1400])
			send(t, "unix", w.socket(s), junk)
		}
	}
	if _, errText, code := w.dogIn(w.first(), []byte("still here"), "vdi", "write", "v", "0"); code != 0 {
		t.Fatal(errText)
	}
	for _, s := range w.sheep {
		if out := w.dogOn(s, "vdi", "read", "v", "0", "10"); out != "still here" {
			t.Errorf("port %d reads %q", s.port, out)
		}
	}
	if out := w.dog("cluster", "info", "-r"); !strings.HasPrefix(out, "running") {
		t.Errorf("cluster info: %s", out)
	}
	w.checked()
}
