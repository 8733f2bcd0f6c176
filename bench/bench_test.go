package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	got, err := parseStat([]byte("12 (a) b (c)) S 1 12 12 0 -1 4194560 90 0 0 0 250 50 7 8 20 0 9 0 100\n"))
	if err != nil || got != 3*time.Second {
		t.Errorf("%v, %v; want 3s: 250 and 50 ticks, none of the children's", got, err)
	}
	for _, bad := range []string{"", "12 (a) S 1", "12 (a) S 1 12 12 0 -1 4194560 90 0 0 0 x 50 7 8"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseMachine(t *testing.T) {
	got, err := parseMachine("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2\n")
	if want := (machine{idle: 8 * time.Second, total: 10 * time.Second}); err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := parseMachine("intr 1\n"); err == nil {
		t.Error("a file without CPUs is taken")
	}
}

func TestParseFio(t *testing.T) {
	out := `note: something
{"jobs": [{"error": 0, "read": {"total_ios": 0},
 "write": {"iops": 8000.5, "bw_bytes": 32768000, "total_ios": 8000, "lat_ns": {"mean": 120000, "max": 9000000}, "clat_ns": {"percentile": {"99.000000": 250000}}},
 "sync": {"lat_ns": {"mean": 400000}}}]}`
	got, err := parseFio([]byte(out))
	want := sample{PerSecond: 8000.5, MBs: 32.768, Mean: 120, P99: 250, Max: 9000, Flush: 400, Count: 8000}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "fio: broken", `{"jobs": []}`, `{"jobs": [{"error": 5}]}`, `{"jobs": [{"error": 0}]}`} {
		if s, err := parseFio([]byte(bad)); err == nil {
			t.Errorf("%q gives %+v", bad, s)
		}
	}
}

func TestJobFile(t *testing.T) {
	stride, err := choose("cow-touch-q1")
	if err != nil {
		t.Fatal(err)
	}
	text := stride[0].file("nbd+unix:///x?socket=/s", 64<<20, 1000)
	for _, want := range []string{"rw=write:4190208\n", "io_size=65536\n", "uri=nbd+unix:///x?socket=/s\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "runtime") || strings.Contains(text, "exec_prerun") {
		t.Errorf("a job that is run once has a time, or one that nobody waits for a mark:\n%s", text)
	}
	stride[0].mark = "/m"
	text = stride[0].file(rbdURI("disk"), 64<<20, 1000)
	for _, want := range []string{"ioengine=rbd\n", "pool=bench\n", "rbdname=disk\n", "exec_prerun=touch /m\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	stream, err := choose("seqw1m-q8,rw4k-q16-fresh")
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{file: "/d/stream"}
	text = stream[0].file(d.disk(), 64<<20, 1000)
	for _, want := range []string{"ioengine=libaio\n", "direct=1\n", "filename=/d/stream\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if !d.does(stream[0]) || d.does(stream[1]) {
		t.Error("the disk alone does another job than to be written in sequence")
	}
	if c, sent := (&ceph{}), (job{qemu: true}); !c.does(stream[0]) || c.does(sent) {
		t.Error("Ceph does all jobs but those that QEMU sends")
	}
	if stream[0].runsOnce() || !stream[1].runsOnce() {
		t.Error("of a job that wants an empty log there is one run, of others as many as rounds")
	}
	text = job{name: "x", rw: "randread", block: 4 * kib, depth: 2, align: objectSize, offset: 8 << 20}.files([]string{"nbd:a", "nbd:b"}, 64<<20, 1000)
	for _, want := range []string{"[global]\ngroup_reporting=1\n", "blockalign=4194304\n", "offset=8388608\n", "[x0]\nuri=nbd:a\n[x1]\nuri=nbd:b\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if _, err := choose("std,nonsense"); err == nil {
		t.Error("an unknown job is taken")
	}
	for name := range sets {
		if _, err := choose(name); err != nil {
			t.Errorf("set %s: %v", name, err)
		}
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	ours := []sample{{Round: 0, PerSecond: 10}, {Round: 1, PerSecond: 30}, {Round: 2, PerSecond: 1}}
	other := []sample{{Round: 1, PerSecond: 60}, {Round: 0, PerSecond: 40}}
	if got := spread(ratios(ours, other, sample.rate)); got != (middle{0.375, 0.25, 0.5}) {
		t.Errorf("%+v", got)
	}
}

func TestStoredResultPrintsTheSame(t *testing.T) {
	r := &result{Version: formatVersion, Commit: "abc", Systems: []string{"sheep", "nbdkit"}, Samples: make(map[string]map[string][]sample)}
	for round := range 3 {
		r.add("rw4k-q1", "sheep", sample{Round: round, PerSecond: 1000, CPU: 100, Mean: 1000})
		r.add("rw4k-q1", "nbdkit", sample{Round: round, PerSecond: 2000, CPU: 50, Mean: 500})
		r.add("clone-api", "sheep", sample{Round: round, Mean: 2500, Count: 1})
	}
	dir := filepath.Join(t.TempDir(), "results")
	if err := r.store(dir); err != nil {
		t.Fatal(err)
	}
	again, err := load(filepath.Join(dir, "abc.json"))
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	r.print(&a)
	again.print(&b)
	if a.String() != b.String() {
		t.Errorf("stored:\n%s\nread:\n%s", &a, &b)
	}
	for _, want := range []string{"0.50 (0.50-0.50)", "2.00", "2.50 (2.50-2.50)"} {
		if !strings.Contains(a.String(), want) {
			t.Errorf("no %q in\n%s", want, &a)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "later.json"), []byte(`{"version": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(filepath.Join(dir, "later.json")); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("a later format: %v", err)
	}
}

func TestBadArguments(t *testing.T) {
	for _, args := range [][]string{{"fly"}, {"run", "-mode", "slow"}, {"run", "-jobs", "x"}, {"run", "-systems", "x"}, {"run", "more"}, {"show"}, {"scale", "-parts", "x"}, {"scale", "-stored", "32,1"}, {"scale", "-stored", "0"}, {"scale", "-stored", "1,x"}, {"scale", "-rounds", "0"}} {
		var out bytes.Buffer
		if err := execute(context.Background(), args, &out); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}

func TestAnotherBuildHasToBeNamed(t *testing.T) {
	builds := map[string]string{"new": t.TempDir(), "old": t.TempDir()}
	for _, dir := range builds {
		for _, name := range []string{"sheep", "dog", "fio"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", builds["new"])
	args := []string{"-bin", builds["new"], "-systems", "sheep,other"}
	for _, more := range [][]string{nil, {"-other", t.TempDir()}} {
		if _, err := parse("bench run", append(args, more...)); err == nil {
			t.Errorf("%v is taken", more)
		}
	}
	p, err := parse("bench run", append(args, "-other", builds["old"]))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := newSystem("sheep", "a", p).(*ours), newSystem("other", "b", p).(*ours); a.bin != builds["new"] || b.bin != builds["old"] {
		t.Errorf("sheep runs %s, other %s; want %v", a.bin, b.bin, builds)
	}
}

func TestStoredPrintsASystemPerRow(t *testing.T) {
	write := func(cpu, disk float64) storedSample {
		return storedSample{sample{CPU: cpu, PerSecond: 40_000, Max: 8000}, disk}
	}
	read := func(cpu, disk float64) storedSample {
		return storedSample{sample{CPU: cpu, PerSecond: 150_000, Max: 7000}, disk}
	}
	s := storedSystem{name: "sheep", memory: func() (int64, error) { return 64 << 20, nil }, rows: []storedRow{
		{{write(30, 32)}, {read(6, 6)}},
		{{write(45, 64), write(60, 96), write(54, 48)}, {read(7.5, 9), read(12, 9), read(9, 12)}},
	}}
	full := storedSystem{rows: []storedRow{{{write(30, 32), write(30, 32), write(36, 48)}, {read(7.5, 9), read(6, 9), read(6, 6)}}}}
	want := "sheep, CPU of the last row in that of the first: randwrite 1.80 (1.50-2.00), with the disk 2.00 (1.50-3.00); randread 1.50 (1.25-2.00), with the disk 1.50 (1.50-2.00)\n" +
		"sheep, CPU of the last row in that of the full disk, as many blocks: randwrite 1.50 (1.50-2.00), with the disk 2.00 (1.00-3.00); randread 1.50 (1.00-2.00), with the disk 1.00 (1.00-2.00)\n"
	if got := s.growth(&full); got != want {
		t.Errorf("%q; want %q", got, want)
	}
	p := storedPair{size: 1 << 40, align: objectSize, systems: []*storedSystem{&s}}
	var out bytes.Buffer
	if err := p.print(&out); err != nil {
		t.Fatal(err)
	}
	want = "1024 GiB\tsheep\t54.0 (45.0-60.0)\t64.0 (48.0-96.0)\t40000 (40000-40000)\t8.0 (8.0-8.0)\t9.0 (7.5-12.0)\t9.0 (9.0-12.0)\t150000 (150000-150000)\t7.0 (7.0-7.0)\t64\t\n"
	if got := out.String(); got != want {
		t.Errorf("%q; want %q", got, want)
	}
	out.Reset()
	s.rows = s.rows[:1]
	p.size, p.align = 32<<20, storedBlock
	if err := p.print(&out); err != nil {
		t.Fatal(err)
	}
	if want := "32 MiB, full\tsheep\t30.0\t32.0\t40000\t8.0\t6.0\t6.0\t150000\t7.0\t64\t\n"; out.String() != want {
		t.Errorf("%q; want %q", &out, want)
	}
	if got := s.growth(&full); strings.Contains(got, "the first") {
		t.Errorf("%q compares a row with itself", got)
	}
}

func TestDefragmentTellsRatiosOfARound(t *testing.T) {
	disks := []*longDisk{
		{name: "in sequence", samples: []sample{{Round: 0, CPU: 300, MBs: 2000, PerSecond: 2000}, {Round: 1, CPU: 400, MBs: 1000, PerSecond: 1000}}},
		{name: "at random", samples: []sample{{Round: 0, CPU: 600, MBs: 1000, PerSecond: 1000}, {Round: 1, CPU: 800, MBs: 500, PerSecond: 500}}},
		{name: "nbdkit", samples: []sample{{Round: 0, CPU: 200, MBs: 4000, PerSecond: 4000}, {Round: 1, CPU: 200, MBs: 2000, PerSecond: 2000}}},
	}
	var out bytes.Buffer
	if err := printLongDisks(&out, disks); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if got, want := strings.Join(strings.Fields(lines[2]), " "), "at random 700 (600-800) 750 (500-1000) 2.00 (2.00-2.00) 0.50 (0.50-0.50) 3.50 (3.00-4.00) 0.25 (0.25-0.25)"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
	m := moving{passes: 3, bytes: 383 << 20, took: 16 * time.Second, cpu: 1149 * time.Millisecond}
	if got, want := m.String(), "moved: 383 MiB by the sheep that is read, after 3 passes, in 16.0 s; that took all sheep 1.15 s of CPU, 3000 us a MiB"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

func TestParseMetric(t *testing.T) {
	text := []byte("# HELP a_bytes What it is.\n# TYPE a_bytes gauge\na_bytes_more 7\na_bytes 8.388608e+06\n")
	if got, err := parseMetric(text, "a_bytes"); err != nil || got != 8<<20 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"b_bytes", "a"} {
		if got, err := parseMetric(text, bad); err == nil {
			t.Errorf("%s is %v", bad, got)
		}
	}
	if got, err := parseMetric([]byte("a_bytes x\n"), "a_bytes"); err == nil {
		t.Errorf("x is %v", got)
	}
}

// What is asked of the machine is more than it has: so much is touched as is free.
func TestTouchedMemoryIsFree(t *testing.T) {
	for _, n := range []int64{4 << 20, 0, -1} {
		if err := touchMemory(n); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if got := touchable(1<<50, 3<<30); got != 1<<30 {
		t.Errorf("%d bytes of 3 GiB are touched; want 1 GiB", got)
	}
	if got := touchable(1<<50, 1<<30); got != 0 {
		t.Errorf("%d bytes of 1 GiB are touched; want none", got)
	}
}

func TestLocalRests(t *testing.T) {
	l := &local{dir: t.TempDir()}
	if err := l.rest(context.Background()); err == nil {
		t.Error("a system without a disk rests")
	}
	if err := os.WriteFile(l.path("disk"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.rest(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestQemuIsAskedForWhatAJobIs(t *testing.T) {
	jobs, err := choose("qemu-w4k-q1-sync,qemu-r1m-q8")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(jobs[0].qemuArgs("nbd:a", 256<<20, 100), " ")
	if want := "bench -f raw -t none -c 100 -d 1 -s 4096 -S 1257472 -w --flush-interval 1 nbd:a"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	got = strings.Join(jobs[1].qemuArgs("nbd:a", 256<<20, 100), " ")
	if want := "bench -f raw -t none -c 100 -d 8 -s 1048576 -S 1048576 nbd:a"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	s, err := jobs[1].parseQemu([]byte("Sending 100 read requests, 1048576 bytes each, 8 in parallel\nRun completed in 0.500 seconds.\n"), 100)
	if err != nil || s.PerSecond != 200 || s.Mean != 40_000 || s.Count != 100 || s.MBs != 209.7152 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "Run completed in 0.000 seconds.", "completed in . seconds"} {
		if _, err := jobs[1].parseQemu([]byte(bad), 100); err == nil {
			t.Errorf("%q is a time", bad)
		}
	}
}
