package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// Bits flip in the extent files of all nodes, no block on two of them. A check
// finds every one, no client gets one, and after the check there is none.
func TestBitFlips(t *testing.T) {
	a := enter(t, 3)
	want := make([]byte, 48<<20)
	for i := range want {
		want[i] = byte(a.rng.Uint32()) | 1 // no zeros: every block of the extents is data
	}
	if _, errText, code := a.DogIn(a.First(), want, "vdi", "write", "reg", "0"); code != 0 {
		t.Fatal(errText)
	}
	a.settled()
	total, taken := 0, map[string]bool{}
	first := map[string]bool{}
	for _, s := range a.Sheep {
		a.places(s, func(key string) { first[key] = true })
	}
	for round := range rounds(t, 4, 1) {
		flips := 50
		if !long() {
			flips = 20
		}
		victim := a.Sheep[round%3]
		// Two readers may have healed one block, and then one of the places that they
		// wrote to holds nothing any more: not all of the new ones are in use.
		a.places(victim, func(key string) { taken[key] = taken[key] || !first[key] })
		done := a.flip(victim, flips, taken)
		out, errText, code := a.DogAt(a.First(), "cluster", "check", "--dry-run", "-o", "json")
		if found := a.corrupt(out); code != 1 || found != done {
			t.Errorf("round %d: %d bits flipped, %d blocks found: exit %d\n%s%s", round, done, found, code, out, errText)
		}
		for _, s := range a.Sheep {
			out, errText, code := a.DogAt(s, "vdi", "read", "reg", "0", strconv.Itoa(len(want)))
			if code != 0 || !bytes.Equal([]byte(out), want) {
				t.Fatalf("port %d delivers something else: exit %d %s", s.Port, code, errText)
			}
		}
		if out, errText, code := a.DogAt(a.First(), "cluster", "check"); code != 0 {
			t.Errorf("round %d: not everything was repaired: exit %d\n%s%s", round, code, out, errText)
		}
		a.Checked()
		total += done
	}
	t.Logf("%d bits flipped; all found and repaired, none delivered", total)
}

// settled waits until the log of recent writes has gone to the extents.
func (a *arena) settled() {
	a.t.Helper()
	for _, s := range a.Sheep {
		a.Kill(s)
		a.Run(s)
		a.Recovered(time.Minute)
	}
}

// corrupt sums the blocks that a check, asked for JSON, found corrupt.
func (a *arena) corrupt(out string) (n int) {
	a.t.Helper()
	var report struct {
		Findings []struct{ Kind, Detail string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		a.t.Fatalf("report of the check: %v: %s", err, out)
	}
	for _, f := range report.Findings {
		var blocks int
		if _, err := fmt.Sscanf(f.Detail, "%d blocks", &blocks); err != nil || f.Kind != "corrupt" {
			a.t.Errorf("finding %+v: %v", f, err)
		}
		n += blocks
	}
	return n
}

// flip inverts a bit in n blocks of the extents of a sheep that hold data, and
// notes them in taken. A place where a block was found bad is not used again:
// blocks that are taken already hold nothing that anybody reads.
func (a *arena) flip(s *lab.Sheep, n int, taken map[string]bool) (done int) {
	a.t.Helper()
	files := a.extents(s)
	for tries := 0; done < n && tries < 100*n; tries++ {
		path := files[a.rng.IntN(len(files))]
		if key, ok := a.flipIn(path, taken); ok {
			taken[key] = true
			done++
		}
	}
	return done
}

// extents are the extent files of a sheep.
func (a *arena) extents(s *lab.Sheep) (files []string) {
	a.t.Helper()
	err := filepath.WalkDir(filepath.Join(a.Meta(s), "obj"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && bytes.HasPrefix([]byte(d.Name()), []byte("extents.")) {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		a.t.Fatalf("extents of port %d: %v %v", s.Port, files, err)
	}
	return files
}

// places visits all blocks of the extents of a sheep that hold data, in use or not.
func (a *arena) places(s *lab.Sheep, visit func(key string)) {
	a.t.Helper()
	for _, path := range a.extents(s) {
		b, err := os.ReadFile(path)
		if err != nil {
			a.t.Fatal(err)
		}
		for off := 4096; off+4096 <= len(b); off += 4096 {
			if len(bytes.Trim(b[off:off+4096], "\x00")) > 0 {
				visit(place(path, int64(off)))
			}
		}
	}
}

// place names a block of an extent file, off bytes from its beginning.
func place(path string, off int64) string { return fmt.Sprint(path, off) }

// flipIn inverts a bit of a random block of a file, unless the block is empty or
// was taken before.
func (a *arena) flipIn(path string, taken map[string]bool) (key string, done bool) {
	a.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < 2*4096 {
		return "", false
	}
	off := (1 + a.rng.Int64N(st.Size()/4096-1)) * 4096
	block := make([]byte, 4096)
	if _, err := f.ReadAt(block, off); err != nil || len(bytes.Trim(block, "\x00")) == 0 {
		return "", false
	}
	if key = place(path, off); taken[key] {
		return "", false
	}
	block[a.rng.IntN(len(block))] ^= 1 << a.rng.IntN(8)
	if _, err := f.WriteAt(block, off); err != nil {
		a.t.Fatal(err)
	}
	return key, true
}

// Bits flip under guests: none of them gets one.
func TestBitFlipsUnderLoad(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	a.populate()
	total, taken := 0, map[string]bool{}
	for round := range rounds(t, 10, 0) {
		time.Sleep(time.Second)
		victim := a.Sheep[round%3]
		total += a.flip(victim, 20, taken)
		time.Sleep(time.Second)
		if out, errText, code := a.DogAt(a.First(), "cluster", "check"); code != 0 {
			t.Errorf("round %d: check: exit %d\n%s%s", round, code, out, errText)
		}
	}
	t.Logf("%d bits flipped", total)
	a.judge()
}
