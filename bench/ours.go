package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/internal/program"
)

const (
	nodes  = 3
	copies = 3
)

// ours is a cluster of three sheep, each in a zone of its own, on loopback. The
// first one serves the disk.
type ours struct {
	dir, bin string
	size     int64
	options  []string // of each sheep, besides those that make the cluster
	sheep    []*program.Process
	ports    []int
	client   *api.Client // of the first sheep
	clones   int
}

// Names in the cluster.
const (
	diskName = "disk"
	baseTag  = "base"
)

// shutdownLimit is how long the cluster may take to end itself.
const shutdownLimit = 20 * time.Second

// newOurs is a cluster of the sheep and dog in bin, with a disk of size bytes.
func newOurs(dir, bin string, size int64) *ours { return &ours{dir: dir, bin: bin, size: size} }

func (o *ours) meta(i int) string { return filepath.Join(o.dir, strconv.Itoa(i)) }

func (o *ours) uri(vdi string) string { return o.uriAt(0, vdi) }

// uriAt is that of a disk at the i-th sheep.
func (o *ours) uriAt(i int, vdi string) string { return uri(filepath.Join(o.meta(i), "nbd.sock"), vdi) }

func (o *ours) disk() string { return o.uri(diskName) }

func (o *ours) start(ctx context.Context) error {
	for range nodes {
		if err := o.spawn(); err != nil {
			return err
		}
	}
	o.client = api.NewClient("127.0.0.1:" + strconv.Itoa(o.ports[0]))
	if err := o.all(ctx); err != nil {
		return err
	}
	if _, err := o.client.Format(ctx, &api.FormatRequest{Copies: sheepdog.Policy{Copies: copies}}); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	if err := o.all(ctx); err != nil {
		return err
	}
	_, err := o.client.CreateVDI(ctx, &api.CreateRequest{Name: diskName, SizeBytes: uint64(o.size)})
	return err
}

// spawn starts one more sheep.
func (o *ours) spawn(options ...string) error {
	port, err := program.FreePort()
	if err != nil {
		return err
	}
	i := len(o.sheep)
	args := append([]string{"-f", "-p", strconv.Itoa(port), "-z", strconv.Itoa(i), "-c", "local:" + filepath.Join(o.dir, "local"),
		"--nbd", "none", "-l", "dst=stdout"}, slices.Concat(o.options, options)...)
	p, err := program.Start(fmt.Sprintf("sheep %d", i), filepath.Join(o.dir, "log"), false, filepath.Join(o.bin, "sheep"), append(args, o.meta(i))...)
	if err != nil {
		return err
	}
	o.sheep, o.ports = append(o.sheep, p), append(o.ports, port)
	return nil
}

// all waits until the first sheep sees every node.
func (o *ours) all(ctx context.Context) error {
	return program.Eventually(ctx, 30*time.Second, "all sheep are there", func() error {
		for _, p := range o.sheep {
			if err := p.Check(); err != nil {
				return err
			}
		}
		list, err := o.client.Nodes(ctx)
		if err == nil && len(list) != len(o.sheep) {
			err = fmt.Errorf("%d nodes", len(list))
		}
		return err
	})
}

func (o *ours) freeze(ctx context.Context) error {
	_, err := o.client.SnapshotVDI(ctx, &api.SnapshotRequest{Name: diskName, Tag: baseTag})
	return err
}

func (o *ours) clone(ctx context.Context) (string, error) {
	if o.clones > 0 {
		if err := o.client.DeleteVDI(ctx, &api.DeleteRequest{Name: o.cloneName()}); err != nil {
			return "", err
		}
	}
	o.clones++
	_, err := o.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: o.cloneName()})
	return o.uri(o.cloneName()), err
}

func (o *ours) cloneName() string { return "clone" + strconv.Itoa(o.clones) }

func (o *ours) pids() []int {
	var out []int
	for _, p := range o.sheep {
		out = append(out, p.PID())
	}
	return out
}

// stop ends the whole cluster at once, as `dog cluster shutdown` does.
func (o *ours) stop() error {
	if o.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownLimit)
		_ = o.client.Shutdown(ctx) // what it does not stop is stopped below
		cancel()
		o.client.Close()
	}
	var errs []error
	for _, p := range o.sheep {
		errs = append(errs, p.Stop())
	}
	return errors.Join(errs...)
}

// log is what the sheep said.
func (o *ours) log() ([]byte, error) { return os.ReadFile(filepath.Join(o.dir, "log")) }
