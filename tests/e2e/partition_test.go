package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// A node is cut off, wholly, then in one direction and in the other, while the
// rest serves verified load. It acknowledges nothing meanwhile, and follows when
// the cut is mended.
func TestPartitionedNodeAcknowledgesNothing(t *testing.T) {
	lab.Need(t, "fio")
	l, f := lab.StartInNamespaces(t, 3)
	w := &world{l}
	w.Format(3)
	w.Dog("vdi", "create", "vm", "64M")
	w.Dog("vdi", "create", "other", "64M")
	cuts := []struct {
		name      string
		cut, mend func(int)
	}{
		{"both ways", f.Cut, f.Mend},
		{"it is not heard", f.Mute, func(int) { f.Heal() }},
		{"it hears nothing", f.Deafen, func(int) { f.Heal() }},
	}
	for i, c := range cuts {
		t.Run(c.name, func(t *testing.T) {
			var wg sync.WaitGroup
			wg.Go(func() {
				out := lab.Fio(t, w.URI(w.Sheep[0], "vm"), "--rw=randwrite", "--verify=crc32c", "--verify_backlog=256", "--fsync=16", "--iodepth=8", "--runtime=7", "--time_based=1", "--do_verify=1")
				lat := lab.MaxLatency(t, out)
				t.Logf("longest I/O of the majority %v", lat)
				if lat > 5*time.Second {
					t.Errorf("longest I/O %v", lat)
				}
			})
			time.Sleep(time.Second)
			c.cut(2)
			time.Sleep(3 * time.Second) // the majority goes on without it
			w.wantNoAck(t, w.Sheep[2], "other", i)
			c.mend(2)
			wg.Wait()
			w.Recovered(60 * time.Second)
			w.sameEverywhere(t, "other")
		})
	}
	w.Checked()
}

// wantNoAck writes at a sheep that is cut off and wants no success.
func (w *world) wantNoAck(t *testing.T, s *lab.Sheep, name string, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	cmd := s.Command(ctx, filepath.Join(w.Bin, "dog"), "vdi", "write", name, "0", "-a", s.Addr, "-p", strconv.Itoa(s.Port))
	cmd.Stdin = strings.NewReader(fmt.Sprintf("from the minority %d", round))
	if err := cmd.Run(); err == nil {
		t.Error("the minority acknowledged a write")
	}
}

// sameEverywhere reads a VDI through every gateway.
func (w *world) sameEverywhere(t *testing.T, name string) {
	t.Helper()
	first := w.Dog("vdi", "read", name)
	for _, s := range w.Sheep[1:] {
		if got := w.DogOn(s, "vdi", "read", name); !bytes.Equal([]byte(got), []byte(first)) {
			t.Errorf("port %d reads something else of %s", s.Port, name)
		}
	}
}
