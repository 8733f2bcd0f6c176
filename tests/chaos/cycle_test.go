package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// A VM image is snapshotted, cloned, and the snapshot deleted, again and again:
// it costs in the end what it cost in the beginning, and leaves nothing.
func TestSnapshotCycles(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	image := make([]byte, 8<<20)
	for i := range image {
		image[i] = byte(a.rng.Uint32())
	}
	if _, errText, code := a.DogIn(a.First(), image, "vdi", "write", "reg", "0"); code != 0 {
		t.Fatal(errText)
	}
	a.Dog("vdi", "snapshot", "-s", "first", "reg")
	a.Dog("vdi", "delete", "-s", "first", "reg")
	time.Sleep(2 * time.Second)
	list, used := names(a.Dog("vdi", "list", "-r")), a.used()
	var took []time.Duration
	n := rounds(t, 1000, 0)
	for i := range n {
		tag, vm := fmt.Sprintf("snap_%d", i), fmt.Sprintf("vm%d", i)
		start := time.Now()
		a.Dog("vdi", "snapshot", "-s", tag, "reg")
		a.Dog("vdi", "clone", "-s", tag, "reg", vm)
		a.Dog("vdi", "delete", "-s", tag, "reg")
		took = append(took, time.Since(start))
		at := a.rng.IntN(len(image) - 4096)
		if got := a.Dog("vdi", "read", vm, fmt.Sprint(at), "4096"); got != string(image[at:at+4096]) {
			t.Fatalf("clone %d has other bytes", i)
		}
		if i%100 == 99 {
			if got := a.Dog("vdi", "read", vm, "0", fmt.Sprint(len(image))); got != string(image) {
				t.Fatalf("clone %d has other bytes", i)
			}
		}
		a.Dog("vdi", "delete", vm)
	}
	tenth := max(1, n/10)
	first, last := median(took[:tenth]), median(took[n-tenth:])
	t.Logf("%d rounds: %v in the first tenth, %v in the last (medians), ratio %.2f", n, first, last, float64(last)/float64(first))
	if n >= 1000 && float64(last) > 1.2*float64(first) {
		t.Errorf("the last rounds take %.2f times as long as the first", float64(last)/float64(first))
	}
	if now := names(a.Dog("vdi", "list", "-r")); !slices.Equal(now, list) {
		t.Errorf("left over: %v, before %v", now, list)
	}
	a.Eventually(time.Minute, "space is back", func() error {
		if now := a.used(); now > used {
			return fmt.Errorf("%d bytes used before, %d after", used, now)
		}
		return nil
	})
	t.Logf("%d bytes used before, %d after", used, a.used())
	a.Checked()
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2].Round(100 * time.Microsecond)
}

// names are the names and tags of a list.
func names(list string) (out []string) {
	for _, row := range lab.Rows(list) {
		out = append(out, strings.Join(strings.Fields(row)[:2], " "))
	}
	return out
}

// used is the space that all nodes report, in bytes.
func (a *arena) used() uint64 {
	a.t.Helper()
	for _, row := range lab.Rows(a.Dog("node", "info", "-r")) {
		var size, used uint64
		if n, _ := fmt.Sscanf(row, "Total %d %d", &size, &used); n == 2 {
			return used
		}
	}
	a.t.Fatal("node info has no total")
	return 0
}
