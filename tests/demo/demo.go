package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sheepdog/internal/program"
	"sheepdog/tests/internal/report"
	"sheepdog/tests/internal/vm"
)

// demo is one run: what it started, and what it knows.
type demo struct {
	opt    options
	dir    string // of everything that the run makes
	report *report.Report

	sheep  []*sheep
	guest  *vm.Guest
	accel  string
	writer writer
}

// The roles in the story: the guest's gateway, the node that dies while the
// guest writes, and the gateway of its second boot.
func (d *demo) gateway() *sheep { return d.sheep[0] }
func (d *demo) victim() *sheep  { return d.sheep[1] }
func (d *demo) other() *sheep   { return d.sheep[2] }

// play takes the steps in order.
func (d *demo) play(ctx context.Context) error {
	for _, s := range []struct {
		what string
		do   func(context.Context, *report.Row) error
	}{
		{"start three sheep", d.startSheep},
		{"dog cluster format --copies 3", d.format},
		{"make the Debian guest image", d.makeImage},
		{"dog vdi import", d.importImage},
		{"dog vdi snapshot", d.snapshot},
		{"dog vdi clone", d.clone},
		{"choose KVM or emulation", d.chooseAccelerator},
		{"boot the clone over NBD", d.bootClone},
		{"kill -9 a replica's node under writes", d.killReplica},
		{"kill -9 the gateway under writes, restart it", d.killGateway},
		{"read all files again in the guest", d.readFiles},
		{"cut the guest's power, boot it through another node", d.bootAgain},
		{"find all files again", d.readFiles},
		{"restart the dead sheep, recover", d.recover},
		{"dog cluster check", d.check},
		{fmt.Sprintf("make %d more clones", moreClones), d.manyClones},
	} {
		if err := d.report.Step(s.what, func(r *report.Row) error { return s.do(ctx, r) }); err != nil {
			return err
		}
	}
	if d.opt.keep {
		return nil
	}
	return d.report.Step("stop the guest and the cluster", func(r *report.Row) error { return d.stopAll(ctx, r) })
}

func (d *demo) startSheep(ctx context.Context, r *report.Row) error {
	if err := os.Mkdir(filepath.Join(d.dir, "log"), 0o700); err != nil {
		return err
	}
	for i := range 3 {
		port, err := program.FreePort()
		if err != nil {
			return err
		}
		s := &sheep{port: port, zone: i + 1}
		d.sheep = append(d.sheep, s)
		if err := d.start(ctx, s); err != nil {
			return err
		}
	}
	r.Verified = "each sees all three"
	return d.members(ctx, startLimit, 3, 0)
}

func (d *demo) format(ctx context.Context, r *report.Row) error {
	begin := time.Now()
	if _, err := d.dog(ctx, d.gateway(), "cluster", "format", "--copies", "3"); err != nil {
		return err
	}
	r.Took = time.Since(begin)
	r.Verified = "running, 3 members, 3 copies"
	return d.running(ctx, 3)
}

// running wants a cluster that serves, with n members in its newest epoch.
func (d *demo) running(ctx context.Context, n int) error {
	return program.Eventually(ctx, startLimit, "the cluster serves", func() error {
		c, err := d.info(ctx, d.gateway())
		if err != nil {
			return err
		}
		rows, err := d.dogRows(ctx, d.gateway(), "node", "list", "-r")
		if err != nil {
			return err
		}
		if c.State != "running" || c.Config.Copies != "3" || c.Epoch < 1 || len(rows) != n {
			return fmt.Errorf("state %s, %s copies, epoch %d, %d members", c.State, c.Config.Copies, c.Epoch, len(rows))
		}
		return nil
	})
}

// makeImage has the image built, unless an earlier run did.
func (d *demo) makeImage(ctx context.Context, r *report.Row) error {
	before, _ := os.Stat(d.opt.image)
	cmd := exec.CommandContext(ctx, d.opt.script, d.opt.image)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", d.opt.script, err)
	}
	after, err := os.Stat(d.opt.image)
	if err != nil {
		return err
	}
	sector := make([]byte, 512)
	f, err := os.Open(d.opt.image)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.ReadAt(sector, 0); err != nil || sector[510] != 0x55 || sector[511] != 0xaa {
		return fmt.Errorf("%s is no disk that boots (%v); remove it and run again", d.opt.image, err)
	}
	r.Verified = fmt.Sprintf("%d MiB, boot sector", after.Size()>>20)
	if before != nil {
		r.Verified += ", from an earlier run"
	}
	return nil
}

func (d *demo) importImage(ctx context.Context, r *report.Row) error {
	begin := time.Now()
	if _, err := d.dog(ctx, d.gateway(), "vdi", "import", d.opt.image, "debian"); err != nil {
		return err
	}
	r.Took = time.Since(begin)
	r.Verified = "equal to the image, read through another node"
	return d.compare(ctx, d.other(), "debian")
}

// compare wants an export to have the bytes of the image.
func (d *demo) compare(ctx context.Context, s *sheep, export string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	_, err := program.Output(ctx, "qemu-img", "compare", "-f", "raw", "-F", "raw", d.opt.image, d.uri(s, export))
	return err
}

func (d *demo) snapshot(ctx context.Context, r *report.Row) error {
	begin := time.Now()
	if _, err := d.dog(ctx, d.other(), "vdi", "snapshot", "-s", "base", "debian"); err != nil {
		return err
	}
	r.Took = time.Since(begin)
	r.Verified = "listed; equal to the image"
	if err := d.listed(ctx, "s debian 1 "); err != nil {
		return err
	}
	return d.compare(ctx, d.victim(), "debian@base")
}

func (d *demo) clone(ctx context.Context, r *report.Row) error {
	begin := time.Now()
	if _, err := d.dog(ctx, d.gateway(), "vdi", "clone", "-s", "base", "debian", "vm"); err != nil {
		return err
	}
	r.Took = time.Since(begin)
	r.Verified = "listed; equal to the image"
	if err := d.listed(ctx, "c vm 0 "); err != nil {
		return err
	}
	return d.compare(ctx, d.other(), "vm")
}

// listed wants a row of `vdi list -r` at every living sheep.
func (d *demo) listed(ctx context.Context, prefix string) error {
	for _, s := range d.living() {
		rows, err := d.dogRows(ctx, s, "vdi", "list", "-r")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(rows, func(row string) bool { return strings.HasPrefix(row, prefix) }) {
			return fmt.Errorf("dog vdi list at port %d has no row %q:\n%s", s.port, prefix, strings.Join(rows, "\n"))
		}
	}
	return nil
}

// moreClones is how many clones are made in a row at the end.
const moreClones = 20

func (d *demo) manyClones(ctx context.Context, r *report.Row) error {
	var times []time.Duration
	begin := time.Now()
	for i := range moreClones {
		one := time.Now()
		if _, err := d.dog(ctx, d.sheep[i%len(d.sheep)], "vdi", "clone", "-s", "base", "debian", fmt.Sprint("clone", i)); err != nil {
			return err
		}
		times = append(times, time.Since(one))
	}
	r.Took = time.Since(begin)
	r.Verified = "each listed; 1 MiB of each read and compared"
	slices.Sort(times)
	d.report.Add("median of one", times[len(times)/2], "with the start of dog; the base has 2 GiB")
	d.report.Add("slowest", times[len(times)-1], "")
	want := make([]byte, 1<<20)
	f, err := os.Open(d.opt.image)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.ReadAt(want, 0); err != nil {
		return err
	}
	for i := range moreClones {
		name := fmt.Sprint("clone", i)
		if err := d.listed(ctx, "c "+name+" 0 "); err != nil {
			return err
		}
		got, err := d.dog(ctx, d.sheep[(i+1)%len(d.sheep)], "vdi", "read", name, "0", fmt.Sprint(len(want)))
		if err != nil {
			return err
		}
		if !bytes.Equal([]byte(got), want) {
			return fmt.Errorf("the first MiB of %s is not that of the image", name)
		}
	}
	return nil
}

// nbdDisk is a virtio disk of QEMU on an export of a sheep. Requests wait for a
// gateway that restarts; any other failure reaches the guest as an I/O error.
func (d *demo) nbdDisk(s *sheep, export string) []string {
	return []string{
		"-blockdev", fmt.Sprintf("driver=nbd,node-name=disk,server.type=unix,server.path=%s,export=%s,reconnect-delay=30,cache.direct=on,discard=unmap", d.socket(s), export),
		"-device", "virtio-blk-pci,drive=disk",
	}
}
