package lab

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Need skips a test aloud when a tool is missing.
func Need(tb testing.TB, tools ...string) {
	tb.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			tb.Skipf("SKIPPED: %s is not installed; run scripts/setup.sh", tool)
		}
	}
}

// NeedRoot skips a test aloud when it does not run as root.
func NeedRoot(tb testing.TB, what string) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skipf("SKIPPED: needs root %s", what)
	}
}

// toolLimit is longer than any client of a test runs.
const toolLimit = 3 * time.Minute

// Tool runs a client and wants it to succeed.
func Tool(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Fio runs one job against an NBD URI and returns its JSON. A failure of the job
// is one of the test, which goes on.
func Fio(tb testing.TB, uri string, args ...string) []byte {
	args = append([]string{"--name=e2e", "--ioengine=nbd", "--uri=" + uri, "--bs=4k", "--size=48m", "--output-format=json", "--verify_fatal=1", "--max_latency=20s"}, args...)
	cmd := exec.CommandContext(tb.Context(), "fio", args...)
	cmd.Dir = tb.TempDir() // fio leaves its verify state where it runs
	out, err := cmd.Output()
	if err != nil {
		tb.Errorf("fio: %v\n%s", err, Tail(out))
	}
	return out
}

// MaxLatency is the longest read, write or flush of a run of fio.
func MaxLatency(tb testing.TB, out []byte) time.Duration {
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
		tb.Errorf("fio output: %v", err)
		return 0
	}
	j := r.Jobs[0]
	return time.Duration(max(j.Read.Lat.Max, j.Write.Lat.Max, j.Sync.Lat.Max))
}
