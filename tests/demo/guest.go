package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"sheepdog/internal/program"
)

// guest is a virtual machine and its console.
type guest struct {
	proc   *program.Process
	con    *console // nil until QEMU has opened it
	socket string   // of the console
}

// machine says what to boot, and how.
type machine struct {
	name  string // of its log and console files
	accel string // kvm or tcg
	disk  []string
}

// Limits of a boot: emulated on a busy machine it takes minutes, under KVM
// seconds.
const (
	bootLimit  = 10 * time.Minute
	trialLimit = 30 * time.Second
)

var ready = regexp.MustCompile("GUEST-READY|root@guest")

// nbdDisk is a virtio disk of QEMU on an export of a sheep. Requests wait for a
// gateway that restarts; any other failure reaches the guest as an I/O error.
func (d *demo) nbdDisk(s *sheep, export string) []string {
	return []string{
		"-blockdev", fmt.Sprintf("driver=nbd,node-name=disk,server.type=unix,server.path=%s,export=%s,reconnect-delay=30,cache.direct=on,discard=unmap", d.socket(s), export),
		"-device", "virtio-blk-pci,drive=disk",
	}
}

// qemuArgs is the command line but for the console's socket.
func (m *machine) qemuArgs() []string {
	cpu := "max"
	if m.accel == "kvm" {
		cpu = "host"
	}
	args := []string{"-machine", "pc,accel=" + m.accel, "-cpu", cpu, "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"}
	return append(args, m.disk...)
}

// boot starts QEMU and waits until the guest says that it is up. The guest is
// in d.guest from the moment that its process exists.
func (d *demo) boot(ctx context.Context, m *machine, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the guest is not up after %v", limit))
	defer cancel()
	socket, log := filepath.Join(d.dir, m.name+".con"), filepath.Join(d.dir, "log", m.name)
	args := append(m.qemuArgs(), "-chardev", fmt.Sprintf("socket,id=con,path=%s,server=on,wait=on,logfile=%s.console", socket, log), "-serial", "chardev:con")
	p, err := program.Start("QEMU", log+".qemu", d.opt.keep, "qemu-system-x86_64", args...)
	if err != nil {
		return fmt.Errorf("%w; run scripts/setup.sh", err)
	}
	d.guest = &guest{proc: p, socket: socket}
	var conn net.Conn
	if err := program.Eventually(ctx, time.Minute, "QEMU opens the console", func() error {
		if err := p.Check(); err != nil {
			return err
		}
		conn, err = net.Dial("unix", socket)
		return err
	}); err != nil {
		return err
	}
	d.guest.con = newConsole(conn)
	var from position
	_, err = d.guest.con.find(ctx, &from, ready)
	return err
}

// powerOff ends a guest as a power cut would.
func (g *guest) powerOff() error {
	if g == nil {
		return nil
	}
	err := g.proc.Kill()
	if g.con != nil {
		g.con.close()
	}
	return err
}

// accelerator finds out whether KVM truly runs a guest here: some hosts have
// the device, and a guest that never gets beyond its boot loader.
func (d *demo) accelerator(ctx context.Context) (accel, why string, err error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", fmt.Sprintf("emulation, because %v", err), nil
	}
	f.Close()
	trial := &machine{name: "trial", accel: "kvm", disk: []string{"-drive", "file=" + d.opt.image + ",format=raw,if=virtio,snapshot=on"}}
	booted := d.boot(ctx, trial, trialLimit)
	err = d.guest.powerOff()
	d.guest = nil
	switch {
	case errors.Join(err, ctx.Err()) != nil:
		return "", "", errors.Join(err, ctx.Err())
	case booted != nil:
		return "tcg", "emulation; a trial under KVM did not come up", nil
	}
	return "kvm", "KVM; a trial came up", nil
}

// healthy wants a guest that saw no error of its disk.
func (g *guest) healthy(ctx context.Context) error {
	const command = `grep -q ' / ext4 rw' /proc/mounts && ! dmesg | grep -E 'I/O error|EXT4-fs error|Remounting filesystem'`
	if _, err := g.con.run(ctx, time.Minute, command); err != nil {
		return fmt.Errorf("the guest saw errors of its disk: %w", err)
	}
	return nil
}
