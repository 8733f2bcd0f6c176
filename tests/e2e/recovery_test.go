package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"sheepdog/api"
	"sheepdog/tests/internal/lab"
)

// A node is away while 1 % of the blocks change, all over the disk. It fetches
// those, and little else.
func TestReturningNodeFetchesWhatChanged(t *testing.T) {
	lab.Need(t, "fio")
	w := start(t, 3)
	w.Format(3)
	const mib = 512
	w.Dog("vdi", "create", "v", fmt.Sprint(mib, "M"))
	w.nbdFio("v", "--rw=write", "--bs=1M", "--iodepth=4", fmt.Sprintf("--size=%dm", mib))
	w.Stop(w.Sheep[2])
	w.nbdFio("v", "--rw=randwrite", "--bs=4k", "--iodepth=16", fmt.Sprintf("--size=%dm", mib), "--number_ios="+strconv.Itoa(mib*256/100))
	before := w.fetched(w.Sheep[:2])
	began := time.Now()
	w.Run(w.Sheep[2])
	w.Recovered(30 * time.Second)
	took := time.Since(began)
	moved := w.fetched(w.Sheep[:2]) - before
	t.Logf("%d MiB of which 1 %% changed: %d KiB moved, complete %v after its start", mib, moved>>10, took.Round(time.Millisecond))
	if most := uint64(mib << 20 * 3 / 100); moved > most {
		t.Errorf("%d bytes were moved, want at most 3 %% of the disk, %d", moved, most)
	}
	if took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	w.Checked()
}

// Recovery that is disabled stays so for nodes that are started; what guests
// write meanwhile goes to the node that is behind all the same.
func TestRecoveryIsDisabledFromTheStart(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "128M")
	w.Dog("cluster", "recover", "disable")
	w.Stop(w.Sheep[2])
	w.fill("v", 32, 1)
	w.Run(w.Sheep[2])
	var list api.RecoveryList
	w.Eventually(20*time.Second, "the node is behind", func() error {
		if err := json.Unmarshal([]byte(w.DogOn(w.Sheep[0], "node", "recovery", "-o", "json")), &list); err != nil || len(list.Nodes) != 1 {
			return fmt.Errorf("%d nodes are behind, %v", len(list.Nodes), err)
		}
		return nil
	})
	before := w.fetched(w.Sheep[:2])
	w.fill("v", 32, 2)
	time.Sleep(2 * time.Second) // in which recovery would have begun, had it been allowed to
	if out := w.Dog("node", "recovery", "-r"); len(lab.Rows(out)) != 1 {
		t.Errorf("recovery went on although it is disabled: %q", out)
	}
	if now := w.fetched(w.Sheep[:2]); now != before {
		t.Errorf("%d bytes were moved although recovery is disabled", now-before)
	}
	w.Dog("cluster", "recover", "enable")
	w.Recovered(30 * time.Second)
	w.Checked()
}

// A sheep with nothing to do costs next to nothing.
func TestIdleSheepIsIdle(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "128M")
	time.Sleep(2 * time.Second) // what a format leaves to do
	before := make([]time.Duration, 3)
	for i, s := range w.Sheep {
		before[i] = w.Processor(s)
	}
	const span = 5 * time.Second
	time.Sleep(span)
	for i, s := range w.Sheep {
		share := (w.Processor(s) - before[i]).Seconds() / span.Seconds()
		t.Logf("sheep %d: %.1f %% of a processor", i, 100*share)
		if share > 0.05 {
			t.Errorf("idle sheep %d takes %.1f %% of a processor, want at most 5 %%, on a loaded machine", i, 100*share)
		}
	}
}

// nbdFio works on a VDI through the first gateway and flushes.
func (w *world) nbdFio(vdi string, args ...string) {
	w.TB.Helper()
	lab.Fio(w.TB, w.URI(w.Sheep[0], vdi), append([]string{"--refill_buffers", "--end_fsync=1", "--randseed=7"}, args...)...)
}

// fetched sums the bytes that other nodes have read from replicas of these.
func (w *world) fetched(sheep []*lab.Sheep) (sum uint64) {
	w.TB.Helper()
	for _, s := range sheep {
		out, errText, code := w.DogAt(s, "node", "stat", "-o", "json")
		var st api.Stats
		if err := json.Unmarshal([]byte(out), &st); code != 0 || err != nil {
			w.TB.Fatalf("node stat: %s %v", strings.TrimSpace(errText), err)
		}
		sum += st.Peer.ReadBytes
	}
	return sum
}
