package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sheepdog/internal/program"
)

//go:embed ceph.sh
var cephScript string

const cephPool = "bench"

// ceph is a Ceph of three OSDs on loopback, each with one of three copies. fio's rbd
// engine is its client, without a cache.
type ceph struct {
	dir    string
	size   int64
	script string
	up     bool
	clones int
}

func newCeph(dir string, p *plan) *ceph {
	return &ceph{dir: dir, size: p.size, script: filepath.Join(dir, "ceph.sh")}
}

func (c *ceph) start(ctx context.Context) error {
	if err := os.WriteFile(c.script, []byte(cephScript), 0o700); err != nil {
		return err
	}
	port, err := program.FreePort()
	if err != nil {
		return err
	}
	c.up = true // also after a failure there may be daemons
	if _, err := output(ctx, "bash", c.script, "up", c.dir, cephPool, strconv.Itoa(port)); err != nil {
		return err
	}
	// fio and rbd find the cluster by their environment.
	if err := os.Setenv("CEPH_CONF", filepath.Join(c.dir, "ceph.conf")); err != nil {
		return err
	}
	return c.rbd(ctx, "create", "--size", strconv.FormatInt(c.size/mib, 10), cephPool+"/"+diskName)
}

func (c *ceph) rbd(ctx context.Context, args ...string) error {
	_, err := output(ctx, "rbd", args...)
	return err
}

func (c *ceph) disk() string { return rbdURI(diskName) }

// does is all that fio does: QEMU would need a driver of its own for it.
func (c *ceph) does(j job) bool { return !j.qemu }

// rbdURI names an image for a job.
func rbdURI(image string) string { return "rbd:" + cephPool + "/" + image }

func (c *ceph) freeze(ctx context.Context) error {
	snap := cephPool + "/" + diskName + "@" + baseTag
	return errors.Join(c.rbd(ctx, "snap", "create", snap), c.rbd(ctx, "snap", "protect", snap))
}

func (c *ceph) clone(ctx context.Context) (string, error) {
	name := func() string { return "clone" + strconv.Itoa(c.clones) }
	if c.clones > 0 {
		if err := c.rbd(ctx, "rm", "--no-progress", cephPool+"/"+name()); err != nil {
			return "", err
		}
	}
	c.clones++
	err := c.rbd(ctx, "clone", cephPool+"/"+diskName+"@"+baseTag, cephPool+"/"+name())
	return rbdURI(name()), err
}

// pids are those of all daemons.
func (c *ceph) pids() []int {
	names, _ := filepath.Glob(filepath.Join(c.dir, "*.pid")) // the pattern is good
	var out []int
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			continue
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

func (c *ceph) stop() error {
	if !c.up {
		return nil
	}
	if _, err := output(context.Background(), "bash", c.script, "down", c.dir); err != nil {
		return fmt.Errorf("stop ceph: %w", err)
	}
	return nil
}
