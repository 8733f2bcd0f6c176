package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// profile runs one job on our cluster and takes profiles of every sheep from its
// socket META/pprof.sock meanwhile.
func profile(ctx context.Context, args []string, out io.Writer) (err error) {
	f := flag.NewFlagSet("bench profile", flag.ContinueOnError)
	bin := f.String("bin", "bin", "directory of sheep and dog")
	name := f.String("job", "rw4k-q16", "what runs meanwhile")
	into := f.String("out", "cache/profile", "directory for the profiles")
	size := f.Int("size", 256, "size of the disk in MiB")
	seconds := f.Int("seconds", 5, "how long each profile is taken")
	dir := f.String("dir", "", "existing directory for the data; empty: a temporary one in TMPDIR")
	if err := f.Parse(args); err != nil {
		return err
	}
	length := time.Duration(*seconds) * time.Second
	p, err := parse("bench profile", []string{"-bin", *bin, "-jobs", *name, "-systems", "sheep", "-rounds", "1", "-size", strconv.Itoa(*size),
		"-runtime", (2*length + 3*time.Second).String(), "-control=false", "-dir", *dir})
	if err != nil {
		return err
	}
	r, err := newRun(p, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.prepare(ctx); err != nil {
		return errors.Join(err, r.logs())
	}
	o := r.systems["sheep"].(*ours)
	fio, err := r.behind(ctx, p.jobs[0], o.disk(), p.runtime, o.pids())
	if err != nil {
		return errors.Join(err, r.logs())
	}
	err = o.profiles(ctx, *into, *seconds, out)
	_, failed := fio.wait()
	return errors.Join(err, failed)
}

// profiles stores profiles of every sheep: CPU, then mutexes and blocking, then
// allocations.
func (o *ours) profiles(ctx context.Context, dir string, seconds int, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, kind := range []string{"profile", "mutex", "allocs"} {
		var wg sync.WaitGroup
		errs := make([]error, len(o.sheep))
		for i := range o.sheep {
			wg.Go(func() {
				path := "/debug/pprof/" + kind + "?seconds=" + strconv.Itoa(seconds)
				if kind == "allocs" {
					path = "/debug/pprof/allocs"
				}
				errs[i] = fetch(ctx, filepath.Join(o.meta(i), "pprof.sock"), path, filepath.Join(dir, fmt.Sprintf("%s.%d", kind, i)))
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "profiles are in %s, the first number is the sheep that coordinates; look at one by\n  go tool pprof -top %s %s\n",
		dir, filepath.Join(o.bin, "sheep"), filepath.Join(dir, "profile.0"))
	return err
}

// fetch stores what an HTTP server on a unix socket answers.
func fetch(ctx context.Context, socket, path, file string) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sheep"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 256<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", path, resp.Status, b)
	}
	return os.WriteFile(file, b, 0o644)
}
