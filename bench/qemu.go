package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// runQemu runs one job on the disk at uri through QEMU's block layer, as a guest would, and
// charges the CPU time of pids to it. It is qemu-img bench, which makes a number of requests
// and knows no latency of each: the first run only finds out how many fit in the time.
func runQemu(ctx context.Context, _ string, j job, uri string, size int64, runtime time.Duration, pids []int) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, runtime+2*time.Minute)
	defer cancel()
	first, err := qemuRequests(ctx, j, uri, size, 64*j.depth, pids)
	if err != nil {
		return first, err
	}
	return qemuRequests(ctx, j, uri, size, max(64*j.depth, int(first.PerSecond*runtime.Seconds())), pids)
}

func qemuRequests(ctx context.Context, j job, uri string, size int64, n int, pids []int) (sample, error) {
	cmd := exec.CommandContext(ctx, "qemu-img", j.qemuArgs(uri, size, n)...)
	return charged(cmd, j.name+" on "+uri, pids, func(out []byte) (sample, error) { return j.parseQemu(out, n) })
}

// qemuArgs are those of qemu-img for n requests. Each of small blocks is more than a MiB
// behind the one before; round after round it is other blocks, until all were there.
func (j job) qemuArgs(uri string, size int64, n int) []string {
	step := int64(j.block)
	if j.block < mib {
		step = mib + 51*int64(j.block)
		for size%step == 0 {
			step += int64(j.block)
		}
	}
	args := []string{"bench", "-f", "raw", "-t", "none", "-c", strconv.Itoa(n), "-d", strconv.Itoa(j.depth), "-s", strconv.Itoa(j.block), "-S", strconv.FormatInt(step, 10)}
	if j.rw == "write" {
		args = append(args, "-w")
	}
	if j.flush > 0 {
		args = append(args, "--flush-interval", strconv.Itoa(j.flush))
	}
	return append(args, uri)
}

var qemuSeconds = regexp.MustCompile(`completed in ([0-9.]+) seconds`)

// parseQemu makes a sample of the time that n requests took.
func (j job) parseQemu(out []byte, n int) (sample, error) {
	m := qemuSeconds.FindSubmatch(out)
	if m == nil {
		return sample{}, fmt.Errorf("qemu-img bench tells no time: %.500q", out)
	}
	seconds, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || seconds <= 0 {
		return sample{}, fmt.Errorf("qemu-img bench took %q seconds for %d requests", m[1], n)
	}
	rate := float64(n) / seconds
	return sample{PerSecond: rate, MBs: rate * float64(j.block) / 1e6, Mean: 1e6 * float64(j.depth) / rate, Count: int64(n)}, nil
}
