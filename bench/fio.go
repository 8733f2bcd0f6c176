package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sheepdog/internal/program"
)

// sample is one run of one job on one system. Times are in microseconds.
type sample struct {
	Round     int     `json:"round"`
	PerSecond float64 `json:"perSecond"` // operations
	MBs       float64 `json:"mbs"`       // 10^6 bytes per second
	Mean      float64 `json:"mean"`      // latency
	P99       float64 `json:"p99"`
	Max       float64 `json:"max"`
	Flush     float64 `json:"flush,omitempty"` // mean latency of flushes
	// CPU of all processes of the system, and of fio, per operation.
	CPU    float64 `json:"cpu"`
	Client float64 `json:"client"`
	// Other is the share of the machine that neither the system nor fio used, and
	// that was not idle: other programs, and the kernel's own threads.
	Other float64 `json:"other"`
	Count int64   `json:"count"`
}

// fioStat is what is read of a direction in fio's JSON.
type fioStat struct {
	IOPS     float64 `json:"iops"`
	BW       float64 `json:"bw_bytes"`
	TotalIOs int64   `json:"total_ios"`
	Lat      struct {
		Mean, Max  float64
		Percentile map[string]float64
	} `json:"lat_ns"`
	Clat struct {
		Percentile map[string]float64
	} `json:"clat_ns"`
}

type fioOutput struct {
	Jobs []struct {
		Error             int
		Read, Write, Sync fioStat
	}
}

// parseFio takes the measures of a job from fio's output, which may have notes
// before the JSON.
func parseFio(out []byte) (sample, error) {
	i := bytes.IndexByte(out, '{')
	if i < 0 {
		return sample{}, fmt.Errorf("fio printed no JSON: %.200q", out)
	}
	var r fioOutput
	if err := json.Unmarshal(out[i:], &r); err != nil {
		return sample{}, fmt.Errorf("fio's JSON: %w", err)
	}
	if len(r.Jobs) != 1 || r.Jobs[0].Error != 0 {
		return sample{}, fmt.Errorf("fio reports an error: %.500s", out[i:])
	}
	d := &r.Jobs[0].Write
	if r.Jobs[0].Read.TotalIOs > 0 {
		d = &r.Jobs[0].Read
	}
	if d.TotalIOs == 0 {
		return sample{}, errors.New("fio did nothing")
	}
	const ns = 1e3
	return sample{PerSecond: d.IOPS, MBs: d.BW / 1e6, Mean: d.Lat.Mean / ns, P99: d.Clat.Percentile["99.000000"] / ns, Max: d.Lat.Max / ns,
		Flush: r.Jobs[0].Sync.Lat.Mean / ns, Count: d.TotalIOs}, nil
}

// runFio runs one job on the disk at uri and charges the CPU time of pids to it.
func runFio(ctx context.Context, dir string, j job, uri string, size int64, runtime time.Duration, pids []int) (sample, error) {
	runtime = max(runtime, time.Duration(j.seconds)*time.Second)
	if j.brief > 0 {
		runtime = min(runtime, j.brief)
	}
	got, err := runFioFile(ctx, dir, j.name, j.file(uri, size, runtime.Milliseconds()), runtime, pids)
	if err != nil {
		return got, fmt.Errorf("on %s: %w", uri, err)
	}
	return got, nil
}

// runFioFile runs what a job file says and charges the CPU time of pids to it.
// What runs at a time has different names.
func runFioFile(ctx context.Context, dir, name, text string, runtime time.Duration, pids []int) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, runtime+2*time.Minute)
	defer cancel()
	file := filepath.Join(dir, name+".fio")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return sample{}, err
	}
	cmd := exec.CommandContext(ctx, "fio", file, "--output-format=json")
	cmd.Dir = dir
	return charged(cmd, name, pids, parseFio)
}

// charged runs a client, of whose output parse makes a sample, and charges the CPU time of
// pids to what it did.
func charged(cmd *exec.Cmd, name string, pids []int, parse func([]byte) (sample, error)) (sample, error) {
	cpu0, err := cpuOf(pids)
	if err != nil {
		return sample{}, err
	}
	m0, err := readMachine()
	if err != nil {
		return sample{}, err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%s: %w: %.500s%.500s", name, err, errs.Bytes(), out.Bytes())
	}
	cpu1, err := cpuOf(pids)
	if err != nil {
		return sample{}, fmt.Errorf("a process ended during %s: %w", name, err)
	}
	m1, err := readMachine()
	if err != nil {
		return sample{}, err
	}
	s, err := parse(out.Bytes())
	if err != nil {
		return s, err
	}
	client := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	s.CPU, s.Client = micros(cpu1-cpu0)/float64(s.Count), micros(client)/float64(s.Count)
	if total := m1.total - m0.total; total > 0 {
		s.Other = max(0, float64(total-(m1.idle-m0.idle)-(cpu1-cpu0)-client)/float64(total))
	}
	return s, nil
}

// background is a job that runs beside what is measured.
type background struct {
	done   chan struct{}
	sample sample
	err    error
}

// wait ends when the job has, and returns what it found.
func (b *background) wait() (sample, error) {
	<-b.done
	return b.sample, b.err
}

// behind starts a job and returns when it is at work: not before it has connected,
// and not after it has failed. The caller waits for it.
func (r *run) behind(ctx context.Context, j job, uri string, runtime time.Duration, pids []int) (*background, error) {
	j.mark = filepath.Join(r.dir, j.name+".at-work")
	if err := os.Remove(j.mark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	b := &background{done: make(chan struct{})}
	go func() { // ends with fio, which wait waits for
		defer close(b.done)
		b.sample, b.err = runFio(ctx, r.dir, j, uri, r.plan.size, runtime, pids)
	}()
	err := program.Eventually(ctx, 30*time.Second, "fio is at work", func() error {
		select {
		case <-b.done:
			return program.Final{Err: errors.Join(errors.New("it ended"), b.err)}
		default:
		}
		_, err := os.Stat(j.mark)
		return err
	})
	if err != nil {
		<-b.done
		return nil, err
	}
	return b, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
