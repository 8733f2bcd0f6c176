package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"sheepdog/api"
	"sheepdog/tests/internal/lab"
)

// Two of four nodes are lost for ever, a majority of the voters among them or
// not; with two copies some data are lost with them. The survivors are forced to
// go on. What the report does not name is there; what it names is old or zero.
// The lost nodes return, together, and change nothing.
func TestForceAfterNodesAreLostForEver(t *testing.T) {
	w := start(t, 5)
	w.Format(2)
	w.Dog("vdi", "create", "v", "128M")
	first := w.fill("v", 32, 1)
	w.Dog("vdi", "snapshot", "-s", "one", "v")
	second := w.fill("v", 32, 2)
	if _, errText, code := w.DogAt(w.Sheep[0], "cluster", "recover", "force", "-f"); code != 1 || !strings.Contains(errText, "Cluster is running/halted and cannot be force recovered") {
		t.Fatalf("force of a cluster that runs: exit %d: %s", code, errText)
	}
	lost := w.Sheep[2:]
	for _, s := range lost {
		w.Kill(s)
	}
	w.Eventually(20*time.Second, "the survivors wait", func() error {
		for _, s := range w.Sheep[:2] {
			out, _, _ := w.DogAt(s, "cluster", "info", "-r")
			if len(lab.Rows(w.DogOn(s, "node", "list", "-r"))) != 2 || !strings.Contains(out, "Waiting") {
				return fmt.Errorf("port %d: %s", s.Port, out)
			}
		}
		return nil
	})
	before := w.force("--dry-run")
	if before.Done || len(before.Lost) != 3 || len(before.Survivors) != 2 || before.Partitions == 0 || before.Log == nil {
		t.Fatalf("report before: %+v", before)
	}
	after := w.force("-f")
	if !after.Done || after.Partitions != before.Partitions {
		t.Fatalf("report after: %+v, before %+v", after, before)
	}
	w.Sheep = w.Sheep[:2]
	w.Recovered(time.Minute)
	w.intact(after, "v", 0, second, first)
	w.intact(after, "v@one", 1, first, nil)
	w.fill("v", 32, 3) // the next coordinator's writes win over what the lost ones wrote
	w.Dog("vdi", "create", "later", "16M")
	w.Checked()

	w.Sheep = append(w.Sheep, lost...)
	for _, s := range lost {
		w.Run(s)
	}
	w.Eventually(20*time.Second, "the lost nodes know that they are strangers", func() error {
		for _, s := range lost {
			if _, errText, _ := w.DogAt(s, "cluster", "info"); !strings.Contains(errText, "without this node") {
				return fmt.Errorf("port %d: %s", s.Port, errText)
			}
		}
		return nil
	})
	for _, s := range lost {
		if _, _, code := w.DogAt(s, "vdi", "read", "v", "0", "4096", "--timeout", "2s"); code == 0 {
			t.Errorf("a node that was given up serves")
		}
	}
	if n := len(lab.Rows(w.Dog("node", "list", "-r"))); n != 2 {
		t.Errorf("%d members after the lost nodes came back", n)
	}
	for i, got := range w.pieces("v", "") {
		if got != string(piece(i, 3)) {
			t.Fatalf("object %d is not what was written last", i)
		}
	}
	w.Checked()
}

// piece is what fill writes into an object.
func piece(i, round int) []byte { return bytes.Repeat([]byte{byte(i), byte(round), 7, 9}, 16384) }

// fill writes 64 KiB at the start of every object and returns the round.
func (w *world) fill(vdi string, objects, round int) func(int) []byte {
	w.TB.Helper()
	for i := range objects {
		if _, errText, code := w.DogIn(w.First(), piece(i, round), "vdi", "write", vdi, fmt.Sprint(i*4<<20)); code != 0 {
			w.TB.Fatalf("write: %s", errText)
		}
	}
	return func(i int) []byte { return piece(i, round) }
}

func (w *world) force(arg string) *api.ForceReport {
	w.TB.Helper()
	out, errText, code := w.DogAt(w.Sheep[1], "cluster", "recover", "force", arg, "-o", "json")
	if code != 0 {
		w.TB.Fatalf("recover force %s: exit %d: %s", arg, code, errText)
	}
	r := new(api.ForceReport)
	if err := json.Unmarshal([]byte(out), r); err != nil {
		w.TB.Fatal(err)
	}
	return r
}

// intact reads every object: outside the reported ranges it must be the newest,
// inside an older state or zeros, as the report says.
func (w *world) intact(r *api.ForceReport, vdi string, snap uint32, newest, older func(int) []byte) {
	w.TB.Helper()
	name, tag, _ := strings.Cut(vdi, "@")
	damaged := 0
	for i, got := range w.pieces(name, tag) {
		hit := false
		for _, d := range r.VDIs {
			for _, p := range d.Ranges {
				hit = hit || d.Name == name && d.SnapshotID == snap && uint64(i*4<<20) >= p.Offset && uint64(i*4<<20) < p.Offset+p.Length
			}
		}
		if !hit && got != string(newest(i)) {
			w.TB.Errorf("%s: object %d is not what was written, and the report does not name it", vdi, i)
		}
		if hit {
			damaged++
			if got != string(newest(i)) && strings.Trim(got, "\x00") != "" && (older == nil || got != string(older(i))) {
				w.TB.Errorf("%s: object %d is something that nobody wrote", vdi, i)
			}
		}
	}
	if damaged == 0 || damaged == 32 {
		w.TB.Errorf("%s: %d of 32 objects damaged; with two copies and three of five nodes lost some are, not all", vdi, damaged)
	}
}

// pieces reads all that fill wrote, at once.
func (w *world) pieces(vdi, tag string) (out []string) {
	w.TB.Helper()
	args := []string{"vdi", "read", vdi, "0", fmt.Sprint(32 * 4 << 20)}
	if tag != "" {
		args = append(args, "-s", tag)
	}
	all := w.Dog(args...)
	if len(all) != 32*4<<20 {
		w.TB.Fatalf("read %d bytes of %s", len(all), vdi)
	}
	for i := range 32 {
		out = append(out, all[i*4<<20:i*4<<20+65536])
	}
	return out
}

// Three of eight nodes are lost for ever, one more than 4:2 stands, with a quorum or
// without. What the report names fails to be read, at once and for that reason, and
// all else is there. What is written anew is read again.
func TestForceAfterTooManyStripsAreLost(t *testing.T) {
	for name, lost := range map[string][2]int{"voters": {2, 5}, "others": {5, 8}} {
		t.Run(name, func(t *testing.T) {
			const objects = 12
			w := start(t, 8, "--recovery-delay", "300ms")
			w.Meet()
			w.Dog("cluster", "format", "-c", "4:2")
			w.Dog("vdi", "create", "vm", fmt.Sprint(objects*4<<20))
			data := noise(8, objects*4<<20)
			w.dogWith(data, "vdi", "write", "vm")
			w.coded("the VDI", w.held(), len(data)*14/10)
			w.Kill(w.Sheep[lost[0]:lost[1]]...)
			w.Sheep = append(w.Sheep[:lost[0]:lost[0]], w.Sheep[lost[1]:]...)
			w.Eventually(60*time.Second, "the survivors wait", func() error {
				_, errText, code := w.DogAt(w.Sheep[1], "cluster", "recover", "force", "--dry-run")
				if code != 0 {
					return fmt.Errorf("%s", errText)
				}
				return nil
			})
			before := w.force("--dry-run")
			if after := w.force("-f"); !after.Done || len(after.VDIs) != 1 || after.VDIs[0].Bytes != before.VDIs[0].Bytes || len(after.Stuck) != 1 {
				t.Fatalf("report after: %+v, before %+v", after, before)
			}
			failed := 0
			for i := range objects {
				at := i * 4 << 20
				named := false
				for _, p := range before.VDIs[0].Ranges {
					named = named || p.Fails && uint64(at) >= p.Offset && uint64(at) < p.Offset+p.Length
				}
				out, errText, code := w.DogAt(w.First(), "vdi", "read", "vm", fmt.Sprint(at), fmt.Sprint(4<<20), "--timeout", "30s")
				switch {
				case named && (code == 0 || !strings.Contains(errText, "too few strips are left")):
					t.Errorf("object %d, which is lost: exit %d: %s", i, code, errText)
				case !named && (code != 0 || out != string(data[at:at+4<<20])):
					t.Errorf("object %d, which is not lost: exit %d, %d bytes: %s", i, code, len(out), errText)
				}
				if named {
					failed++
				}
			}
			if failed == 0 || failed == objects {
				t.Errorf("%d of %d objects are lost; of eight nodes three are, so some should be", failed, objects)
			}
			if _, errText, code := w.DogAt(w.Sheep[0], "cluster", "recover", "force", "-f"); code != 1 || !strings.Contains(errText, "Cluster is running/halted and cannot be force recovered") {
				t.Errorf("force of what was forced: exit %d: %s", code, errText)
			}
			w.writtenAnew(int(before.VDIs[0].Ranges[0].Offset) + 12288)
			w.dogWith(data, "vdi", "write", "vm")
			w.readsBack("vm", data)
		})
	}
}

// writtenAnew writes a little where an object is lost: it is read again, also from a
// snapshot, whatever its neighbours lack.
func (w *world) writtenAnew(at int) {
	w.TB.Helper()
	now := noise(77, 8192)
	w.dogWith(now, "vdi", "write", "vm", fmt.Sprint(at), "8192")
	w.Dog("vdi", "snapshot", "-s", "anew", "vm")
	for _, args := range [][]string{{"vdi", "read", "vm"}, {"vdi", "read", "-s", "anew", "vm"}} {
		out, errText, code := w.DogAt(w.Sheep[1], append(args, fmt.Sprint(at), "8192", "--timeout", "30s")...)
		if code != 0 || out != string(now) {
			w.TB.Errorf("dog %v of what was written anew: exit %d, %d bytes: %s", args, code, len(out), errText)
		}
	}
}
