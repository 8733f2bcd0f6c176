package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheepdog/api"
	"sheepdog/tests/internal/lab"
)

// slackBytes is what a store keeps of freed space for the next writes.
const slackBytes = 17 << 20

// onDisks is the space that a node's data take in its file system.
func onDisks(t *testing.T, l *lab.Lab, s *lab.Sheep) (n int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(l.Meta(s), "obj", "extents.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return n
}

// random is data that no store makes smaller.
func random(rng *rand.ChaCha8, size int) []byte {
	b := make([]byte, size)
	rng.Read(b)
	return b
}

// TestFileSystemSetsNothingAside: XFS took twice the space of the data while they
// were written, and guests waited for space on a disk that was half empty.
func TestFileSystemSetsNothingAside(t *testing.T) {
	w := &world{lab.New(t)}
	s := w.Plan(0)
	w.GiveDisk(s, 1<<30)
	w.Run(s)
	w.Format(1)
	const size = 200 << 20
	w.Dog("vdi", "create", "disk", "1G")
	w.dogWith(random(rand.NewChaCha8([32]byte{1}), size), "vdi", "write", "disk")
	if n := onDisks(t, w.Lab, s); n < size || n > size+slackBytes {
		t.Errorf("%d bytes of data take %d", size, n)
	}
}

// spaces is what the API says of VDIs and snapshots, by NAME or NAME@TAG.
func spaces(t *testing.T, l *lab.Lab, s *lab.Sheep) map[string]api.VDI {
	t.Helper()
	var list api.VDIList
	if err := l.Get(s, "/v1/vdis?physical=true", &list); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]api.VDI)
	for _, v := range list.VDIs {
		if v.ExclusiveBytes == nil || v.SharedPhysicalBytes == nil {
			t.Fatalf("%s: the space on disks is missing", v.Name)
		}
		out[strings.TrimSuffix(v.Name+"@"+v.Tag, "@")] = v
	}
	return out
}

// What is deleted is gone from the file systems of all nodes within a minute, also
// of one that was away meanwhile. Before, the nodes say what will be freed.
func TestSpaceOfDeletedVDIsComesBack(t *testing.T) {
	l := lab.Start(t, 3)
	l.Format(3)
	rng := rand.NewChaCha8([32]byte{1})
	put := func(name string, offset, size int) []byte {
		t.Helper()
		b := random(rng, size)
		if _, errText, code := l.DogIn(l.First(), b, "vdi", "write", name, strconv.Itoa(offset)); code != 0 {
			t.Fatal(errText)
		}
		return b
	}
	l.Dog("vdi", "create", "keep", "8M")
	kept := put("keep", 0, 8<<20)
	l.Dog("vdi", "create", "vm", "128M")
	put("vm", 0, 96<<20)
	l.Dog("vdi", "snapshot", "-s", "one", "vm")
	put("vm", 0, 32<<20)
	l.Dog("vdi", "clone", "-s", "one", "vm", "copy")
	put("copy", 64<<20, 16<<20)
	l.Eventually(time.Minute, "space of what was written", func() error {
		got := spaces(t, l, l.Sheep[0])
		for name, want := range map[string][2]uint64{"keep": {8, 0}, "vm": {32, 96}, "vm@one": {0, 96}, "copy": {16, 96}} {
			v := got[name]
			if *v.ExclusiveBytes != 3*want[0]<<20 || *v.SharedPhysicalBytes != 3*want[1]<<20 {
				return fmt.Errorf("%s: %d exclusive, %d shared; want three times %d and %d MiB", name, *v.ExclusiveBytes, *v.SharedPhysicalBytes, want[0], want[1])
			}
		}
		return nil
	})
	away := l.Sheep[2]
	l.Kill(away)
	l.Dog("vdi", "delete", "vm")
	l.Dog("vdi", "delete", "copy")
	l.Dog("vdi", "delete", "-s", "one", "vm")
	deleted := time.Now()
	back := func(s *lab.Sheep) {
		t.Helper()
		l.Eventually(time.Minute, "space of what was deleted", func() error {
			if n := onDisks(t, l, s); n > 8<<20+slackBytes {
				return fmt.Errorf("port %d: %d bytes on its disk", s.Port, n)
			}
			return nil
		})
	}
	back(l.Sheep[0])
	back(l.Sheep[1])
	t.Logf("nodes that were there had the space back after %v", time.Since(deleted).Round(100*time.Millisecond))
	if n := onDisks(t, l, away); n < 100<<20 {
		t.Fatalf("the node that is away has only %d bytes: there is nothing to see", n)
	}
	l.Run(away)
	returned := time.Now()
	back(away)
	t.Logf("the node that was away had it %v after its start", time.Since(returned).Round(100*time.Millisecond))
	if got := l.Dog("vdi", "read", "keep"); got != string(kept) {
		t.Error("the VDI that was kept has other bytes")
	}
	l.Recovered(time.Minute)
	l.Checked()
}

// A snapshot that is deleted between others is merged into the layer above it: what
// that hides is freed, and the rest is relabelled, not copied.
func TestDeletedLayerIsMergedByRelabelling(t *testing.T) {
	l := lab.Start(t, 2)
	l.Format(2)
	rng := rand.NewChaCha8([32]byte{2})
	image := random(rng, 96<<20)
	l.Dog("vdi", "create", "vm", "96M")
	put := func(offset, size int) {
		t.Helper()
		copy(image[offset:offset+size], random(rng, size))
		if _, errText, code := l.DogIn(l.First(), image[offset:offset+size], "vdi", "write", "vm", strconv.Itoa(offset)); code != 0 {
			t.Fatal(errText)
		}
	}
	put(0, len(image))
	l.Dog("vdi", "snapshot", "-s", "one", "vm")
	put(0, 40<<20)
	l.Dog("vdi", "snapshot", "-s", "two", "vm")
	second := bytes.Clone(image)
	put(90<<20, 4<<20)
	const freed = 40 << 20
	if n := *spaces(t, l, l.Sheep[0])["vm@one"].ExclusiveBytes; n != 2*freed {
		t.Errorf("%d bytes are said to be freed by the deletion, want twice %d", n, freed)
	}
	var before, written [2]int64
	for i, s := range l.Sheep {
		before[i], written[i] = onDisks(t, l, s), writtenBy(t, s)
	}
	l.Dog("vdi", "delete", "-s", "one", "vm")
	for i, s := range l.Sheep {
		l.Eventually(time.Minute, "merged", func() error {
			if n := onDisks(t, l, s); n > before[i]-freed+slackBytes {
				return fmt.Errorf("port %d: %d bytes on its disk, %d before", s.Port, n, before[i])
			}
			return nil
		})
		if n := writtenBy(t, s) - written[i]; n > 12<<20 {
			t.Errorf("port %d wrote %d bytes to relabel %d MiB", s.Port, n, 56)
		}
	}
	for _, s := range l.Sheep {
		if got, errText, _ := l.DogAt(s, "vdi", "read", "vm"); got != string(image) {
			t.Errorf("port %d: the VDI has other bytes than were written %s", s.Port, errText)
		}
		if got, errText, _ := l.DogAt(s, "vdi", "read", "-s", "two", "vm"); got != string(second) {
			t.Errorf("port %d: the snapshot above has other bytes than it had %s", s.Port, errText)
		}
	}
	l.Checked()
}

// writtenBy is how many bytes a sheep handed to the system, to files and sockets.
func writtenBy(t *testing.T, s *lab.Sheep) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", s.Pid()))
	if err != nil {
		t.Skip(err)
	}
	for _, row := range lab.Rows(string(b)) {
		if n, ok := strings.CutPrefix(row, "wchar: "); ok {
			v, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatal("no bytes written in /proc")
	return 0
}
