package e2e

import (
	"bytes"
	"strconv"
	"sync"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// All nodes lose power at once while writes are under way: their file systems
// are shut down under them, which drops what was not synced. What was flushed is
// there afterwards.
func TestPowerCutOfAllNodes(t *testing.T) {
	w := &world{lab.New(t)}
	for i := range 3 {
		s := w.Plan(i)
		w.GiveDisk(s, 2<<30)
		w.Run(s)
	}
	w.Format(3)
	w.Dog("vdi", "create", "v", "256M")
	for round := range 2 {
		data := bytes.Repeat([]byte{byte(round + 1)}, 300000)
		for i := range 10 {
			at := strconv.Itoa(i * 20 << 20)
			if _, errText, code := w.DogIn(w.Sheep[i%3], data, "vdi", "write", "v", at); code != 0 {
				t.Fatalf("write: %s", errText) // dog's writes are flushed when it returns
			}
		}
		// More writes are under way at the moment of the cut.
		var wg sync.WaitGroup
		wg.Go(func() { w.DogIn(w.Sheep[0], bytes.Repeat([]byte{99}, 30<<20), "vdi", "write", "v", "210000000") })
		time.Sleep(150 * time.Millisecond)
		w.CutPower(w.Sheep...)
		wg.Wait()
		for _, s := range w.Sheep {
			w.Run(s)
		}
		w.Recovered(time.Minute)
		for i := range 10 {
			got := w.Dog("vdi", "read", "v", strconv.Itoa(i*20<<20), strconv.Itoa(len(data)))
			if got != string(data) {
				t.Fatalf("round %d: flushed piece %d is not there after the power cut", round, i)
			}
		}
		w.Checked()
	}
}
