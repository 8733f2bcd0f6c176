package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

func diskNoise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// One of two disks of a node fails under a VDI in use: the node stays, what the
// disk held is fetched from the others to the disk that is left, every byte is
// right. The failed disk is unplugged, another is plugged in, and the first is
// emptied into it.
func TestFailedDiskDegradesItsObjectsOnly(t *testing.T) {
	w := &world{lab.New(t)}
	a, b, c := w.ExtraDisk("a", 1<<30), w.ExtraDisk("b", 1<<30), w.ExtraDisk("c", 1<<30)
	for i := range 3 {
		s := w.Plan(i)
		if i == 0 {
			s.Disks = []string{a, b}
		}
		w.Run(s)
	}
	w.Format(3)
	w.Dog("vdi", "create", "v", "128M")
	write := func(data []byte, at string) {
		t.Helper()
		if _, errText, code := w.DogIn(w.Sheep[0], data, "vdi", "write", "v", at); code != 0 {
			t.Fatalf("write: %s", errText)
		}
	}
	first, second := diskNoise(1, 48<<20), diskNoise(2, 24<<20)
	write(first, "0")
	if out := w.DogOn(w.Sheep[0], "node", "md", "info", "-r"); len(lab.Rows(out)) != 2 {
		t.Fatalf("disks:\n%s", out)
	}
	w.BreakDisk(b)
	write(second, "50331648")
	w.Eventually(30*time.Second, "the failed disk is told", func() error {
		_, errText, _ := w.DogAt(w.Sheep[1], "cluster", "info")
		if !strings.Contains(errText, "failed or missing disk") {
			return errFrom(errText)
		}
		return nil
	})
	w.Recovered(time.Minute)
	if !w.Sheep[0].Alive() {
		t.Fatal("the node went with its disk")
	}
	want := append(bytes.Clone(first), second...)
	read := func(when string) {
		t.Helper()
		if got := w.DogOn(w.Sheep[0], "vdi", "read", "v", "0", "75497472"); got != string(want) {
			t.Fatalf("%s: other bytes than were written", when)
		}
	}
	read("after the failure")
	w.Checked()
	w.DogOn(w.Sheep[0], "node", "md", "unplug", "-f", b)
	w.DogOn(w.Sheep[0], "node", "md", "plug", "-f", c)
	w.DogOn(w.Sheep[0], "node", "md", "unplug", "-f", a)
	out := w.DogOn(w.Sheep[0], "node", "md", "info", "-r")
	if rows := lab.Rows(out); len(rows) != 1 || !strings.HasSuffix(rows[0], " "+c) {
		t.Fatalf("disks after the change:\n%s", out)
	}
	read("after the change")
	w.Checked()
	w.Kill(w.Sheep[0])
	w.Recovered(time.Minute)
	w.Run(w.Sheep[0]) // as it was started: c is remembered, a and b stay out
	w.Recovered(time.Minute)
	read("after a restart")
	w.Checked()
}

// The disk with the metadata of a node fails: the node ends, the others go on.
func TestFailedMetadataEndsTheNode(t *testing.T) {
	w := &world{lab.New(t)}
	for i := range 3 {
		s := w.Plan(i)
		if i == 2 {
			w.GiveDisk(s, 1<<30)
		}
		w.Run(s)
	}
	w.Format(3)
	w.Dog("vdi", "create", "v", "64M")
	w.BreakDisk(w.Meta(w.Sheep[2]))
	data := diskNoise(3, 8<<20)
	if _, errText, code := w.DogIn(w.Sheep[0], data, "vdi", "write", "v", "0"); code != 0 {
		t.Fatalf("write: %s", errText)
	}
	select {
	case <-w.Sheep[2].Done():
	case <-time.After(30 * time.Second):
		t.Fatal("a node without metadata goes on")
	}
	w.Recovered(time.Minute)
	if got := w.DogOn(w.Sheep[0], "vdi", "read", "v", "0", "8388608"); got != string(data) {
		t.Fatal("other bytes than were written")
	}
	w.Checked()
}

// The disk of a node stands still while it is written to. That is all that stands: the
// node answers, serves what it has in memory, and stays a member. A system call that the
// scheduler does not know of would keep one of its processors all the while.
func TestNodeGoesOnWhileItsDiskStandsStill(t *testing.T) {
	lab.Need(t, "fio")
	for _, processors := range []string{"1", "2"} {
		t.Run(processors+" processors", func(t *testing.T) {
			w := &world{lab.New(t)}
			for i := range 3 {
				s := w.Plan(i)
				if i == 0 {
					w.GiveDisk(s, 1<<30)
					s.Env = []string{"GOMAXPROCS=" + processors}
				}
				w.Run(s)
			}
			w.Format(3)
			frozen := w.Sheep[0]
			for _, name := range []string{"read", "written", "long"} {
				w.Dog("vdi", "create", name, "48M")
			}
			lab.Fio(t, w.URI(frozen, "read"), "--rw=write", "--fsync_on_close=1")
			epoch := func() int {
				t.Helper()
				var c struct{ Epoch int }
				if err := w.Get(frozen, "/v1/cluster", &c); err != nil {
					t.Fatal(err)
				}
				return c.Epoch
			}
			before := epoch()
			const still, longest = 3 * time.Second, time.Second
			var load sync.WaitGroup
			defer load.Wait()
			load.Go(func() {
				lab.Fio(t, w.URI(w.Sheep[1], "written"), "--rw=randwrite", "--iodepth=16", "--time_based=1", "--runtime=6")
			})
			load.Go(func() { // the frozen node has them past its memory
				lab.Fio(t, w.URI(w.Sheep[1], "long"), "--rw=write", "--bs=1m", "--iodepth=8", "--time_based=1", "--runtime=6", "--rate=40m")
			})
			load.Go(func() {
				out := lab.Fio(t, w.URI(frozen, "read"), "--rw=randread", "--time_based=1", "--runtime=6")
				if l := lab.MaxLatency(t, out); l > longest {
					t.Errorf("a read of what is in memory took %v", l)
				}
			})
			time.Sleep(time.Second) // in the middle of the load
			thawed := w.FreezeDisk(w.Meta(frozen), still)
			for over := false; !over; {
				select {
				case err := <-thawed:
					if err != nil {
						t.Fatal(err)
					}
					over = true
				case <-time.After(50 * time.Millisecond):
				}
				asked := time.Now()
				epoch()
				if took := time.Since(asked); took > longest {
					t.Errorf("the node took %v to answer", took)
				}
			}
			load.Wait()
			if after := epoch(); after != before {
				t.Errorf("epoch %d, and %d before its disk stood still", after, before)
			}
			w.Checked()
		})
	}
}

type errFrom string

func (e errFrom) Error() string { return string(e) }

// All nodes die at once, and one comes back without a disk, before another one
// that has the only other copy of some of it. What was written must not be given
// up for the one that lacks it: it waits, and all of it is there in the end.
func TestNodeWithoutADiskDoesNotOutvoteALateOne(t *testing.T) {
	w := &world{lab.New(t)}
	disks := []string{filepath.Join(w.Dir, "a"), filepath.Join(w.Dir, "b")}
	for i := range 3 {
		s := w.Plan(i)
		if i == 0 {
			s.Disks = disks
		}
		w.Run(s)
	}
	w.Format(2)
	w.Dog("vdi", "create", "v", "96M")
	data := diskNoise(3, 96<<20)
	if _, errText, code := w.DogIn(w.Sheep[0], data, "vdi", "write", "v"); code != 0 {
		t.Fatalf("write: %s", errText)
	}
	w.Kill(w.Sheep...)
	if err := os.Rename(disks[1], disks[1]+".away"); err != nil {
		t.Fatal(err)
	}
	late := w.Sheep[1]
	w.Run(w.Sheep[0])
	w.Run(w.Sheep[2])
	w.Eventually(30*time.Second, "the late node is out of the view", func() error {
		for _, row := range lab.Rows(w.DogOn(w.Sheep[2], "cluster", "info")) {
			if _, nodes, ok := strings.Cut(row, "["); ok && strings.Contains(nodes, fmt.Sprint(w.Sheep[2].Port)) {
				if strings.Contains(nodes, fmt.Sprint(late.Port)) {
					return errFrom(row)
				}
				return nil // the newest epoch comes first
			}
		}
		return errFrom("no epoch")
	})
	w.Run(late)
	w.Recovered(time.Minute)
	for _, s := range w.Sheep {
		if got, errText, code := w.DogAt(s, "vdi", "read", "v"); code != 0 || got != string(data) {
			t.Errorf("port %d: exit %d, %d bytes that are not those written: %s", s.Port, code, len(got), errText)
		}
	}
	w.Checked()
}
