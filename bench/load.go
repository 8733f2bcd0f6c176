package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"sheepdog/api"
)

// clientBytes is the disk of each client: all of them together fit into the memory of
// the host, three times, so that the host's disk is not what is measured.
const clientBytes = 8 << 20

// connections measures with more and more clients at one sheep, each of a disk of its
// own and with one request in flight.
func (s *scaling) connections(ctx context.Context, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\twrite CPU us\twrites/s\tread CPU us\treads/s\tmemory MiB\t")
	var uris []string
	for _, n := range scaleConnections {
		for len(uris) < n {
			name := "client" + strconv.Itoa(len(uris))
			if _, err := s.ours.client.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: clientBytes}); err != nil {
				return err
			}
			uris = append(uris, s.ours.uri(name))
		}
		if _, err := s.clients(ctx, job{name: "fill", rw: "write", block: mib, depth: 1, once: true}, uris, clientBytes, 0); err != nil {
			return err
		}
		fmt.Fprintf(w, "%d connections", n)
		for _, rw := range []string{"randwrite", "randread"} {
			got, err := s.clients(ctx, job{name: rw, rw: rw, block: 4 * kib, depth: 1}, uris, clientBytes, s.run.plan.runtime)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "\t%.1f\t%.0f", got.CPU, got.PerSecond)
		}
		memory, err := s.ours.largest()
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "\t%d\t\n", memory>>20)
	}
	return w.Flush()
}

// clients runs a job on several disks at once, and adds up what they did.
func (s *scaling) clients(ctx context.Context, j job, uris []string, size int64, runtime time.Duration) (sample, error) {
	if err := s.ours.rest(ctx); err != nil {
		return sample{}, err
	}
	return runFioFile(ctx, s.run.dir, j.name, j.files(uris, size, runtime.Milliseconds()), runtime, s.ours.pids())
}

// files is the job as fio reads it, once for each of the disks, in threads.
func (j job) files(uris []string, size int64, millis int64) string {
	var b strings.Builder
	all := j.file(uris[0], size, millis)
	fmt.Fprintf(&b, "[global]\ngroup_reporting=1\nthread=1\n%s", all[strings.IndexByte(all, '\n')+1:])
	for i, u := range uris {
		fmt.Fprintf(&b, "[%s%d]\nuri=%s\n", j.name, i, u)
	}
	return b.String()
}
