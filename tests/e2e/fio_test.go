package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// fio runs one job against an NBD URI and returns its JSON.
func fio(t *testing.T, uri string, args ...string) []byte {
	args = append([]string{"--name=e2e", "--ioengine=nbd", "--uri=" + uri, "--bs=4k", "--size=48m", "--output-format=json", "--verify_fatal=1", "--max_latency=20s"}, args...)
	cmd := exec.CommandContext(t.Context(), "fio", args...)
	cmd.Dir = t.TempDir() // fio leaves its verify state where it runs
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("fio: %v\n%s", err, tail(out))
	}
	return out
}

// maxLatency is the longest read, write or flush of a run.
func maxLatency(t *testing.T, out []byte) time.Duration {
	type stat struct {
		Lat struct {
			Max int64 `json:"max"`
		} `json:"lat_ns"`
	}
	var r struct {
		Jobs []struct{ Read, Write, Sync stat }
	}
	for len(out) > 0 && out[0] != '{' {
		out = out[1:]
	}
	if err := json.Unmarshal(out, &r); err != nil || len(r.Jobs) == 0 {
		t.Errorf("fio output: %v", err)
		return 0
	}
	j := r.Jobs[0]
	return time.Duration(max(j.Read.Lat.Max, j.Write.Lat.Max, j.Sync.Lat.Max))
}

// holdOpen attaches a client to the VDI at a sheep, writes, and stays attached
// until the test ends, so that this sheep coordinates.
func (w *world) holdOpen(s *sheep, name string) {
	w.t.Helper()
	need(w.t, "qemu-io")
	cmd := exec.Command("qemu-io", "-f", "raw", w.uri(s, name))
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := in.Write([]byte("write -P 1 60M 4k\n")); err != nil {
		w.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for got := ""; ; {
		n, err := out.Read(buf)
		if err != nil {
			w.t.Fatalf("qemu-io: %v: %s", err, got)
		}
		got += string(buf[:n])
		if strings.Contains(got, "wrote") {
			return
		}
	}
}
