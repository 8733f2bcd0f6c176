package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// image makes a raw file of size bytes with data in some places and holes in
// others.
func image(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for off := int64(0); off < size-int64(len(block)); off += 16 << 20 {
		for i := range block {
			block[i] = byte(off>>20) ^ byte(i*7) ^ byte(i>>9)
		}
		if _, err := f.WriteAt(block, off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestImageGoesInAndOut(t *testing.T) {
	lab.Need(t, "qemu-img", "nbdcopy", "nbdinfo")
	w := start(t, 3)
	w.Format(3)
	raw := image(t, 256<<20)
	w.Dog("vdi", "create", "img", "256M")
	lab.Tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, w.URI(w.Sheep[0], "img"))
	for i, s := range w.Sheep {
		back := filepath.Join(t.TempDir(), fmt.Sprint("back", i))
		lab.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", w.URI(s, "img"), back)
		lab.Tool(t, "cmp", raw, back)
	}
	w.Dog("vdi", "snapshot", "-s", "one", "img")
	w.Dog("vdi", "clone", "-s", "one", "img", "copy")
	lab.Tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", w.URI(w.Sheep[1], "img@one"), w.URI(w.Sheep[2], "copy"))
	if out := lab.Tool(t, "qemu-img", "map", "--output=json", "-f", "raw", w.URI(w.Sheep[0], "copy")); !strings.Contains(out, `"data": false`) {
		t.Errorf("qemu-img map shows no holes:\n%s", out)
	}
	back := filepath.Join(t.TempDir(), "nbdcopy")
	lab.Tool(t, "nbdcopy", "--connections=4", w.URI(w.Sheep[1], "copy"), back)
	lab.Tool(t, "cmp", raw, back)
	if out := lab.Tool(t, "nbdinfo", "--json", w.URI(w.Sheep[0], "img@one")); !strings.Contains(out, `"is_read_only": true`) {
		t.Errorf("a snapshot is writable:\n%s", out)
	}
	w.Checked()
}

// fio writes and verifies through one gateway while another node dies; a node
// returns and is brought up to date.
func TestNodeDiesUnderVerifiedLoad(t *testing.T) {
	lab.Need(t, "fio")
	for _, victim := range []string{"replica", "coordinator"} {
		t.Run(victim, func(t *testing.T) {
			w := start(t, 3)
			w.Format(3)
			raw := image(t, 64<<20)
			w.Dog("vdi", "import", raw, "base")
			w.Dog("vdi", "snapshot", "-s", "s", "base")
			w.Dog("vdi", "clone", "-s", "s", "base", "vm")
			client, dead := w.Sheep[0], w.Sheep[1]
			if victim == "coordinator" {
				// The victim coordinates while the client's gateway forwards.
				w.holdOpen(dead, "vm")
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				out := lab.Fio(t, w.URI(client, "vm"), "--rw=randwrite", "--verify=crc32c", "--verify_backlog=512", "--fsync=32", "--iodepth=16", "--runtime=8", "--time_based=1", "--do_verify=1")
				if lat := lab.MaxLatency(t, out); lat > 5*time.Second {
					t.Errorf("longest I/O %v", lat)
				} else {
					t.Logf("longest I/O %v", lat)
				}
			})
			time.Sleep(3 * time.Second) // the middle of the load
			w.Kill(dead)
			wg.Wait()
			if t.Failed() {
				return
			}
			w.Run(dead)
			w.Recovered(60 * time.Second)
			w.Checked()
		})
	}
}

func TestWholeClusterDiesAtOnce(t *testing.T) {
	lab.Need(t, "qemu-io")
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "1G")
	data := bytes.Repeat([]byte("sheep"), 200000)
	for i := range 20 {
		if _, errText, code := w.DogIn(w.Sheep[i%3], data, "vdi", "write", "v", fmt.Sprint(i*50<<20)); code != 0 {
			t.Fatal(errText)
		}
	}
	for _, s := range w.Sheep {
		w.Kill(s)
	}
	for _, s := range w.Sheep {
		w.Run(s)
	}
	w.Recovered(60 * time.Second)
	for i := range 20 {
		out, errText, code := w.DogAt(w.Sheep[(i+1)%3], "vdi", "read", "v", fmt.Sprint(i*50<<20), fmt.Sprint(len(data)))
		if code != 0 || out != string(data) {
			t.Fatalf("piece %d differs after the restart: exit %d %s", i, code, errText)
		}
	}
	w.Checked()
}

func TestSnapshotCycleLeavesNothingBehind(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "import", image(t, 64<<20), "base")
	before := w.Dog("vdi", "list", "-r")
	used := w.held()
	for i := range 25 {
		tag, name := fmt.Sprintf("snap_vm%d", i), fmt.Sprintf("vm%d", i)
		w.Dog("vdi", "snapshot", "-s", tag, "base")
		w.Dog("vdi", "clone", "-s", tag, "base", name)
		w.Dog("vdi", "delete", "-s", tag, "base")
		w.Dog("vdi", "delete", name)
	}
	after := w.Dog("vdi", "list", "-r")
	if strip(before) != strip(after) {
		t.Errorf("list before and after:\n%s%s", before, after)
	}
	w.Eventually(time.Minute, "space is back", func() error {
		if now := w.held(); now > used+1<<20 {
			return fmt.Errorf("%d bytes used before, %d after", used, now)
		}
		return nil
	})
	w.Checked()
}

// strip removes the VDI id and the times, which go on.
func strip(list string) string {
	var out []string
	for _, row := range lab.Rows(list) {
		f := strings.Split(row, " ")
		out = append(out, strings.Join(append(f[:6:6], f[8:]...), " "))
	}
	return strings.Join(out, "\n")
}

// used is the space that all nodes report.
func (w *world) used() uint64 {
	w.TB.Helper()
	for _, row := range lab.Rows(w.Dog("node", "info", "-r")) {
		var size, used uint64
		if n, _ := fmt.Sscanf(row, "Total %d %d", &size, &used); n == 2 {
			return used
		}
	}
	w.TB.Fatal("node info has no total")
	return 0
}

func TestGracefulStopDownToOneAndBack(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "64M")
	data := bytes.Repeat([]byte{42}, 1<<20)
	if _, errText, code := w.DogIn(w.Sheep[0], data, "vdi", "write", "v", "0"); code != 0 {
		t.Fatal(errText)
	}
	w.Stop(w.Sheep[0])
	w.Stop(w.Sheep[1])
	if out := w.Dog("vdi", "read", "v", "0", "1048576"); out != string(data) {
		t.Fatal("the last node reads something else")
	}
	w.Run(w.Sheep[0])
	w.Run(w.Sheep[1])
	w.Recovered(60 * time.Second)
	w.Checked()
	w.Dog("cluster", "shutdown")
	w.Eventually(15*time.Second, "all sheep stop", func() error {
		for _, s := range w.Sheep {
			if s.Alive() {
				return fmt.Errorf("port %d is alive", s.Port)
			}
		}
		return nil
	})
	for _, s := range w.Sheep {
		w.Run(s)
	}
	w.Recovered(60 * time.Second)
	if out := w.Dog("vdi", "read", "v", "0", "1048576"); out != string(data) {
		t.Fatal("data differ after the shutdown")
	}
	w.Checked()
}

// A member that has just started is not reached by all others yet.
func TestListCountsAllObjectsAfterARestart(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "64M")
	w.dogWith(noise(6, 64<<20), "vdi", "write", "v")
	w.Dog("cluster", "shutdown")
	for _, s := range w.Sheep {
		<-s.Done()
	}
	for _, s := range w.Sheep {
		w.Spawn(s)
	}
	for _, s := range w.Sheep {
		w.Answers(s)
		w.Eventually(30*time.Second, "the disk is listed", func() error {
			var list struct {
				VDIs []struct{ OwnObjects int }
			}
			if err := w.Get(s, "/v1/vdis", &list); err != nil {
				return err
			}
			if len(list.VDIs) != 1 || list.VDIs[0].OwnObjects != 16 {
				t.Errorf("listed: %+v, want one disk of 16 objects", list)
			}
			return nil
		})
	}
	w.Recovered(60 * time.Second)
}

// TestStopRightAfterAStart: a stop while nodes were not members again failed with "wrong node", and
// stopped one of them.
func TestStopRightAfterAStart(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	for range 3 {
		w.Dog("cluster", "shutdown")
		for _, s := range w.Sheep {
			select {
			case <-s.Done():
			case <-time.After(20 * time.Second):
				t.Fatalf("the sheep on port %d was not stopped", s.Port)
			}
		}
		for _, s := range w.Sheep {
			w.Spawn(s)
		}
		for _, s := range w.Sheep {
			w.Answers(s)
		}
	}
	w.Recovered(60 * time.Second)
	w.Checked()
}

// A fourth node takes over the replicas of a lost one.
func TestLostNodeIsReplacedByAnother(t *testing.T) {
	w := start(t, 4, "--recovery-delay", "0s")
	w.Format(3)
	raw := image(t, 64<<20)
	w.Dog("vdi", "import", raw, "v")
	w.Kill(w.Sheep[3])
	w.Recovered(60 * time.Second)
	w.Checked()
	w.Kill(w.Sheep[2])
	w.Recovered(60 * time.Second)
	back := filepath.Join(t.TempDir(), "back")
	lab.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", w.URI(w.Sheep[0], "v"), back)
	lab.Tool(t, "cmp", raw, back)
	w.Checked()
}

func TestBadInputIsRefusedClearly(t *testing.T) {
	w := start(t, 1)
	if _, errText, code := w.DogAt(w.Sheep[0], "vdi", "create", "early", "1G"); code != 1 || !strings.Contains(errText, "format") {
		t.Errorf("create before format: exit %d %q", code, errText)
	}
	w.Format(1)
	w.Dog("vdi", "create", "v", "1G")
	for _, c := range []struct {
		code int
		args []string
	}{
		{1, []string{"vdi", "create", "", "1G"}},
		{1, []string{"vdi", "create", strings.Repeat("x", 256), "1G"}},
		{1, []string{"vdi", "create", "a@b", "1G"}},
		{1, []string{"vdi", "create", "v", "1G"}},
		{64, []string{"vdi", "create", "zero", "0"}},
		{64, []string{"vdi", "create", "huge", "17P"}},
		{64, []string{"vdi", "create", "bad", "12X"}},
		{1, []string{"vdi", "snapshot", "-s", "t", "nosuch"}},
		{64, []string{"vdi", "snapshot", "-s", "123", "v"}},
		{1, []string{"vdi", "clone", "-s", "nosuch", "v", "c"}},
		{1, []string{"vdi", "delete", "nosuch"}},
		{1, []string{"vdi", "read", "nosuch"}},
		{64, []string{"vdi", "frobnicate"}},
	} {
		_, errText, code := w.DogAt(w.Sheep[0], c.args...)
		if code != c.code {
			t.Errorf("dog %q: exit %d, want %d: %s", c.args, code, c.code, errText)
		}
		if strings.TrimSpace(errText) == "" {
			t.Errorf("dog %q fails without a word", c.args)
		}
	}
	if out := w.Dog("vdi", "list", "-r"); len(lab.Rows(out)) != 1 {
		t.Errorf("something was left behind:\n%s", out)
	}
}
