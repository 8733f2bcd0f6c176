package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/internal/prom/promtest"
	"sheepdog/nbd"
	"sheepdog/vdi/directory"
)

// startReal is startAlone with a store on disk, and NBD on its unix socket.
func startReal(t *testing.T) *Node {
	t.Helper()
	return startFormatted(t, Config{NBDSocket: t.TempDir() + "/nbd.sock", Version: "1.0"})
}

// scrape reads the metrics of a node, strictly.
func scrape(t testing.TB, n *Node) []promtest.Family {
	t.Helper()
	text, err := backend{n}.Metrics(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	families, err := promtest.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// TestMetricsKeepTheirNames: dashboards and alerts are made of names, types and labels.
// Add to testdata/metrics.txt; do not change what is there.
func TestMetricsKeepTheirNames(t *testing.T) {
	var got strings.Builder
	for _, f := range scrape(t, startReal(t)) {
		labels := make(map[string]bool)
		for _, s := range f.Samples {
			for name := range s.Labels {
				labels[name] = true
			}
		}
		fmt.Fprintln(&got, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Type, f.Name, strings.Join(slices.Sorted(maps.Keys(labels)), ","))))
	}
	want, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

// TestDocumentedMetricsExist: alerts that are copied from the documents name what there is.
func TestDocumentedMetricsExist(t *testing.T) {
	names, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`sheepdog_[a-z_]+`).FindAllString(string(doc), -1)
	if len(named) < 10 {
		t.Errorf("only %q are named", named)
	}
	for _, name := range named {
		if name = strings.TrimSuffix(name, "_bucket"); !strings.Contains(string(names), " "+name+"\n") && !strings.Contains(string(names), " "+name+" ") {
			t.Errorf("docs/operations.md names %s, which does not exist", name)
		}
	}
}

// difference is a look at one series from one scrape to the next.
type difference struct {
	t      *testing.T
	before []promtest.Family
	after  []promtest.Family
}

func (d *difference) want(rise float64, name string, labels ...string) {
	d.t.Helper()
	if got := promtest.Find(d.after, name, labels...) - promtest.Find(d.before, name, labels...); got != rise {
		d.t.Errorf("%s %v rose by %v, want %v", name, labels, got, rise)
	}
}

// TestMetricsFollowRequests: what a guest and the API do shows, as often as they do it.
func TestMetricsFollowRequests(t *testing.T) {
	n := startReal(t)
	b, ctx := backend{n}, t.Context()
	check := checks(t)
	check(b.CreateVDI(ctx, &api.CreateRequest{Name: "v", SizeBytes: 8 << 20}))
	d := &difference{t: t, before: scrape(t, n)}
	opened, err := exports{n}.Open(ctx, "v", nbd.Info{})
	check(nil, err)
	dev := opened.(*device)
	block := bytes.Repeat([]byte{7}, sheepdog.BlockSize)
	check(nil, dev.WriteAt(ctx, block, 0, false))
	check(nil, dev.Flush(ctx))
	check(nil, dev.ReadAt(ctx, block, 0))
	reads := 1.0
	if dev.TryReadAt(block, 0) { // it may be busy
		reads++
	}
	var begun [1]bool
	done := make(chan error, 1)
	dev.StartWrites(ctx, []nbd.Write{{Data: block, Off: 4096, Done: func(err error) { done <- err }}}, begun[:])
	if !begun[0] {
		t.Fatal("a write to a block that was never written is not begun")
	}
	check(nil, <-done)
	check(nil, dev.WriteZeroes(ctx, 0, 4096, 0))
	check(b.WriteVDI(ctx, &api.WriteRequest{Name: "v", Offset: 1 << 20, Length: 4096}, bytes.NewReader(block)))
	check(b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: "v", Tag: "one"}))
	frozen, err := exports{n}.Open(ctx, "v@one", nbd.Info{})
	check(nil, err)
	if err := frozen.WriteAt(ctx, block, 0, false); err == nil {
		t.Fatal("a write to a snapshot succeeded")
	}
	check(nil, frozen.Close())
	d.after = scrape(t, n)
	for op, counts := range map[string][3]float64{"read": {reads, 0, reads}, "write": {4, 1, 3}, "zero": {1, 0, 1}, "flush": {1, 0, 1}} {
		d.want(counts[0], "sheepdog_requests_total", "origin", "client", "op", op)
		d.want(counts[1], "sheepdog_request_errors_total", "origin", "client", "op", op)
		d.want(counts[2], "sheepdog_request_duration_seconds_count", "origin", "client", "op", op)
	}
	d.want(reads*4096, "sheepdog_request_bytes_total", "origin", "client", "op", "read")
	d.want(3*4096, "sheepdog_request_bytes_total", "origin", "client", "op", "write")
	d.want(0, "sheepdog_requests_in_flight", "origin", "client")
	d.want(1, "sheepdog_vdis_open")
	d.want(1, "sheepdog_vdis_coordinated")
	d.want(0, "sheepdog_vdis", "state", "active")
	d.want(1, "sheepdog_snapshots")
	for name, least := range map[string]float64{"sheepdog_log_backlog_bytes": 3 * 4096, "sheepdog_log_used_bytes": 1 << 20, "sheepdog_store_used_bytes": 1 << 20,
		"sheepdog_store_free_bytes": 1 << 20, "process_resident_memory_bytes": 1 << 20, "process_open_fds": 10, "go_goroutines": 10, "process_cpu_seconds_total": 0.001} {
		if got := promtest.Find(d.after, name); !(got >= least) {
			t.Errorf("%s is %v, want at least %v", name, got, least)
		}
	}
	if promtest.Find(d.after, "sheepdog_cluster_state", "state", "running") != 1 || promtest.Find(d.after, "sheepdog_raft_leader") != 1 ||
		promtest.Find(d.after, "sheepdog_cluster_members", "role", "storage") != 1 || promtest.Find(d.after, "sheepdog_partitions_degraded") != 0 {
		t.Error("a whole cluster of one does not look like it")
	}
	check(nil, dev.Close())
	d.before, d.after = d.after, scrape(t, n)
	d.want(-1, "sheepdog_vdis_open")
}

// TestMetricsOfManyDisks: 10,000 VDIs make neither more series nor a longer answer.
func TestMetricsOfManyDisks(t *testing.T) {
	n := startAlone(t)
	series := func() (out []string, size int) {
		text, err := backend{n}.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if name, _, ok := strings.Cut(line, " "); ok && name != "#" {
				out = append(out, name)
			}
		}
		return out, len(text)
	}
	before, small := series()
	const disks = 10000
	for i := range disks { // past the log, which would take its time
		kind, body, err := directory.Encode(&directory.Create{Time: time.Unix(1, 0), Name: fmt.Sprint("v", i), Size: 1 << 30, Policy: sheepdog.Policy{Copies: 1}, BlockSizeShift: sheepdog.DefaultObjectShift})
		if err == nil {
			_, err = n.dir.Apply(1<<40+uint64(i), kind, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	after, large := series()
	if !slices.Equal(before, after) || large > small+200 {
		t.Errorf("%d series in %d bytes became %d in %d", len(before), small, len(after), large)
	}
	if got := promtest.Find(scrape(t, n), "sheepdog_vdis", "state", "active"); got != disks {
		t.Errorf("%v VDIs, want %d", got, disks)
	}
}

// TestScrapesBesideRequests: scrapes and requests do not wait for each other, and what is
// read in the middle of requests still adds up.
func TestScrapesBesideRequests(t *testing.T) {
	n := startReal(t)
	b, ctx := backend{n}, t.Context()
	check := checks(t)
	check(b.CreateVDI(ctx, &api.CreateRequest{Name: "v", SizeBytes: 8 << 20}))
	opened, err := exports{n}.Open(ctx, "v", nbd.Info{})
	check(nil, err)
	defer opened.Close()
	stop := make(chan struct{})
	var guests sync.WaitGroup
	for g := range 4 {
		guests.Go(func() {
			block := bytes.Repeat([]byte{byte(g)}, sheepdog.BlockSize)
			for at := uint64(0); ; at += sheepdog.BlockSize {
				select {
				case <-stop:
					return
				default:
				}
				if err := opened.WriteAt(ctx, block, uint64(g)<<20+at%(1<<20), false); err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	last := 0.0
	for range 200 {
		now := promtest.Find(scrape(t, n), "sheepdog_request_duration_seconds_count", "origin", "client", "op", "write")
		if now < last {
			t.Errorf("%v writes after %v", now, last)
		}
		last = now
	}
	close(stop)
	guests.Wait()
	families := scrape(t, n)
	if begun, timed := promtest.Find(families, "sheepdog_requests_total", "origin", "client", "op", "write"), promtest.Find(families, "sheepdog_request_duration_seconds_count", "origin", "client", "op", "write"); begun != timed || begun < last {
		t.Errorf("%v writes begun, %v timed, %v before", begun, timed, last)
	}
}

func TestLatencyBuckets(t *testing.T) {
	for i := range latencyBuckets {
		bound := latencyBound(i)
		if at, above := bucketOf(bound), bucketOf(bound+1); at != i || above != i+1 {
			t.Errorf("%v is in bucket %d, and what is longer in %d; want %d and %d", bound, at, above, i, i+1)
		}
	}
	if bucketOf(0) != 0 || bucketOf(-time.Second) != 0 || bucketOf(math.MaxInt64) != latencyBuckets {
		t.Error("what is out of bounds is in no bucket")
	}
	if first, last := latencyBound(0), latencyBound(latencyBuckets-1); first != 32*time.Microsecond || last != 8388608*time.Microsecond {
		t.Errorf("buckets from %v to %v", first, last)
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	var c counters
	failed := errors.New("failed")
	if n := testing.AllocsPerRun(100, func() {
		began := time.Now()
		c.begin(&c.write)
		c.end(&c.write, began, nil, 4096)
		c.begin(&c.read)
		c.end(&c.read, began, failed, 0)
		c.read.serve(began, 4096)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRedundancyOfAView: of four partitions with three copies one is whole, one lacks a
// replica, one has a replica on a node that is gone, and one is being compared.
func TestRedundancyOfAView(t *testing.T) {
	policy := sheepdog.Policy{Copies: 3}
	all := []sheepdog.NodeID{1, 2, 3}
	v := &sheepdog.View{Tables: map[sheepdog.Policy]sheepdog.Table{policy: {
		{Acting: all, Target: all}, {Acting: all[:2], Target: all}, {Acting: []sheepdog.NodeID{1, 2, 9}, Target: all}, {Acting: all, Target: all, State: sheepdog.Unclean}}}}
	for i := range 3 {
		v.Members = append(v.Members, sheepdog.Member{ID: all[i], Zone: sheepdog.Zone(i), VNodes: 128})
	}
	n := new(Node)
	r := n.redundancyOf(v)
	if r.partitions != 4 || r.degraded != 2 || r.missing != 2 || r.waiting != 2 {
		t.Errorf("%+v", *r)
	}
	if n.redundancyOf(v) != r {
		t.Error("a view is looked at twice")
	}
}
