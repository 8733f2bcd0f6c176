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

	"sheepdog/tests/internal/lab"
)

// The node that coordinates stands still again and again while a client of
// another gateway writes and verifies: nothing is lost, and the node serves
// nothing stale when it wakes up.
func TestCoordinatorPausesUnderVerifiedLoad(t *testing.T) {
	lab.Need(t, "fio")
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "vm", "64M")
	paused := w.Sheep[1]
	w.holdOpen(paused, "vm")
	var wg sync.WaitGroup
	wg.Go(func() {
		out := lab.Fio(t, w.URI(w.Sheep[0], "vm"), "--rw=randwrite", "--verify=crc32c", "--verify_backlog=256", "--fsync=16", "--iodepth=8", "--runtime=14", "--time_based=1", "--do_verify=1")
		t.Logf("longest I/O %v", lab.MaxLatency(t, out))
	})
	for range 3 {
		time.Sleep(time.Second)
		w.Signal(paused, syscall.SIGSTOP)
		time.Sleep(2500 * time.Millisecond) // longer than detection
		w.Signal(paused, syscall.SIGCONT)
	}
	wg.Wait()
	w.Recovered(60 * time.Second)
	w.Checked()
}

// Bits flip in the extent files of one node: no client ever gets them, the check
// finds and repairs them, and then there are none.
func TestFlippedBitsAreFoundAndHealed(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	raw := image(t, 64<<20)
	w.Dog("vdi", "import", raw, "v")
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	victim := w.Sheep[1]
	flipped := w.flip(victim, 20)
	if flipped == 0 {
		t.Fatal("found no data to damage")
	}
	_, errText, code := w.DogAt(w.First(), "cluster", "check", "--dry-run")
	if code != 1 {
		t.Fatalf("the check did not notice %d flipped bits: exit %d %s", flipped, code, errText)
	}
	for _, s := range w.Sheep {
		out, errText, code := w.DogAt(s, "vdi", "read", "v")
		if code != 0 || !bytes.Equal([]byte(out), want) {
			t.Fatalf("read through port %d: exit %d %s", s.Port, code, errText)
		}
	}
	if out, errText, code := w.DogAt(w.First(), "cluster", "check"); code != 0 {
		t.Fatalf("check did not repair everything: exit %d\n%s%s", code, out, errText)
	}
	w.Checked()
}

// flip inverts a bit in up to n blocks that hold data in the extents of a sheep.
func (w *world) flip(s *lab.Sheep, n int) (done int) {
	w.TB.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	err := filepath.WalkDir(filepath.Join(w.Meta(s), "obj"), func(path string, d fs.DirEntry, err error) error {
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
		w.TB.Fatal(err)
	}
	return done
}

// Garbage on every port, TCP and UDP, disturbs nobody.
func TestGarbageOnEveryPort(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "64M")
	junk := make([]byte, 64<<10)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range junk {
		junk[i] = byte(r.Uint32())
	}
	for _, s := range w.Sheep {
		for range 20 {
			send(t, "tcp", fmt.Sprintf("127.0.0.1:%d", s.Port), junk)
			send(t, "udp", fmt.Sprintf("127.0.0.1:%d", s.Port), junk[:1400])
			send(t, "unix", w.Socket(s), junk)
		}
	}
	if _, errText, code := w.DogIn(w.First(), []byte("still here"), "vdi", "write", "v", "0"); code != 0 {
		t.Fatal(errText)
	}
	for _, s := range w.Sheep {
		if out := w.DogOn(s, "vdi", "read", "v", "0", "10"); out != "still here" {
			t.Errorf("port %d reads %q", s.Port, out)
		}
	}
	if out := w.Dog("cluster", "info", "-r"); !strings.HasPrefix(out, "running") {
		t.Errorf("cluster info: %s", out)
	}
	w.Checked()
}

// doesNotStart starts a sheep that has to end by itself, with the words in its log.
func (w *world) doesNotStart(s *lab.Sheep, words ...string) {
	w.TB.Helper()
	w.Spawn(s)
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		w.TB.Fatalf("the sheep on port %d runs", s.Port)
	}
	log, err := os.ReadFile(filepath.Join(w.Meta(s), "sheep.log"))
	if err != nil {
		w.TB.Fatal(err)
	}
	for _, text := range words {
		if !strings.Contains(string(log), text) {
			w.TB.Errorf("the log does not say %q:\n%s", text, lab.Tail(log))
		}
	}
}

// A process that dies of SIGBUS, as it does when its disk does not give Badger a page of
// META, is to the cluster what a killed one is. While META cannot be read the node does
// not start, and says what to do; with an empty one it comes back and fetches everything.
func TestDeathByAFaultOfTheDiskUnderMeta(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "16M")
	want := noise(33, 16<<20)
	w.dogWith(want, "vdi", "write", "v")
	s := w.Sheep[0]
	w.Signal(s, syscall.SIGBUS)
	<-s.Done()
	w.readsBackAt(w.Sheep[1], "v", want)
	bad := filepath.Join(w.Meta(s), "meta", "999999.sst")
	if err := os.Symlink("/proc/self/mem", bad); err != nil { // EIO at its first byte
		t.Fatal(err)
	}
	w.doesNotStart(s, "the process before this one crashed", "SIGBUS", "999999.sst: input/output error", "start this node with an empty META")
	if err := os.RemoveAll(w.Meta(s)); err != nil {
		t.Fatal(err)
	}
	w.Run(s)
	w.Recovered(time.Minute)
	w.readsBack("v", want)
	w.Checked()
}

// TestEmptiedNodeDoesNotOutvoteALateOne: after a stop of the whole cluster one node
// is without its store, but has its identity and its Raft log, and the node with
// the other replica is late. It was taken for complete: all read zeros where there
// had been data, and the late node had to give up what it had.
func TestEmptiedNodeDoesNotOutvoteALateOne(t *testing.T) {
	w := start(t, 3)
	w.Format(2)
	w.Dog("vdi", "create", "vm", "32M")
	want := noise(5, 32<<20)
	w.dogWith(want, "vdi", "write", "vm")
	w.Dog("cluster", "shutdown")
	for _, s := range w.Sheep {
		<-s.Done()
	}
	emptied := w.Sheep[0]
	if err := os.RemoveAll(filepath.Join(w.Meta(emptied), "meta")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first must not make the second succeed
		w.doesNotStart(emptied, "remove all of META")
	}
	w.Run(w.Sheep[2])
	w.Run(w.Sheep[1])
	if err := os.RemoveAll(w.Meta(emptied)); err != nil {
		t.Fatal(err)
	}
	w.Run(emptied)
	w.Recovered(60 * time.Second)
	for _, s := range w.Sheep {
		w.readsBackAt(s, "vm", want)
	}
	w.Checked()
}
