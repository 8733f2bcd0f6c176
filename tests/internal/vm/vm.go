// Package vm boots virtual machines in QEMU and talks to the shell on their
// serial lines, for what shows the whole on real guests.
//
// Main types: Machine, Guest, Console.
package vm

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

// Machine says what to boot, and how.
type Machine struct {
	Name  string // of its log and console files
	Accel string // kvm or tcg
	Args  []string
	Dir   string // short, as it holds the console's socket; logs go to Dir/log
	Keep  bool   // the guest outlives the caller
}

// Guest is a virtual machine that was started.
type Guest struct {
	Proc   *program.Process
	Con    *Console // nil until QEMU has opened it
	Socket string   // of the console
}

// Limits of a boot: emulated on a busy machine it takes minutes, under KVM
// seconds.
const (
	BootLimit  = 10 * time.Minute
	trialLimit = 30 * time.Second
)

var ready = regexp.MustCompile("GUEST-READY|root@guest")

// QEMUArgs is the command line but for the console's socket.
func (m *Machine) QEMUArgs() []string {
	cpu := "max"
	if m.Accel == "kvm" {
		cpu = "host"
	}
	args := []string{"-machine", "pc,accel=" + m.Accel, "-cpu", cpu, "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"}
	return append(args, m.Args...)
}

// Boot starts QEMU and waits until the guest says that it is up. The guest is
// not nil from the moment that its process exists, also with an error.
func (m *Machine) Boot(ctx context.Context, limit time.Duration) (*Guest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the guest is not up after %v", limit))
	defer cancel()
	socket, log := filepath.Join(m.Dir, m.Name+".con"), filepath.Join(m.Dir, "log", m.Name)
	args := append(m.QEMUArgs(), "-chardev", fmt.Sprintf("socket,id=con,path=%s,server=on,wait=on,logfile=%s.console", socket, log), "-serial", "chardev:con")
	p, err := program.Start("QEMU", log+".qemu", m.Keep, "qemu-system-x86_64", args...)
	if err != nil {
		return nil, fmt.Errorf("%w; run scripts/setup.sh", err)
	}
	g := &Guest{Proc: p, Socket: socket}
	var conn net.Conn
	if err := program.Eventually(ctx, time.Minute, "QEMU opens the console", func() error {
		if err := p.Check(); err != nil {
			return err
		}
		conn, err = net.Dial("unix", socket)
		return err
	}); err != nil {
		return g, err
	}
	g.Con = NewConsole(conn)
	var from Position
	_, err = g.Con.Find(ctx, &from, ready)
	return g, err
}

// PowerOff ends a guest as a power cut would.
func (g *Guest) PowerOff() error {
	if g == nil {
		return nil
	}
	err := g.Proc.Kill()
	if g.Con != nil {
		g.Con.Close()
	}
	return err
}

// Accelerator finds out whether KVM truly runs a guest here: some hosts have
// the device, and a guest that never gets beyond its boot loader. The trial boots
// a raw image, which it leaves as it is, with its files in dir.
func Accelerator(ctx context.Context, dir, image string) (accel, why string, err error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", fmt.Sprintf("emulation, because %v", err), nil
	}
	f.Close()
	trial := &Machine{Name: "trial", Accel: "kvm", Args: []string{"-drive", "file=" + image + ",format=raw,if=virtio,snapshot=on"}, Dir: dir}
	g, booted := trial.Boot(ctx, trialLimit)
	switch err = errors.Join(g.PowerOff(), ctx.Err()); {
	case err != nil:
		return "", "", err
	case booted != nil:
		return "tcg", "emulation; a trial under KVM did not come up", nil
	}
	return "kvm", "KVM; a trial came up", nil
}

var deviceTimeout = regexp.MustCompile("Timed out waiting for device.*ttyS0")

// GaveUp reports whether the guest missed the time limits of its own start,
// as an emulated one on a busy host may.
func (g *Guest) GaveUp() bool { return g != nil && g.Con != nil && g.Con.Saw(deviceTimeout) }

// greetLimit is how long the shell of a guest that is up may take to answer.
const greetLimit = 8 * time.Minute

// Greet makes sure of the guest's shell.
func (g *Guest) Greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, greetLimit, fmt.Errorf("the guest's shell does not answer within %v", greetLimit))
	defer cancel()
	return g.Con.Greet(ctx)
}

// Healthy wants a guest that saw no error of its disk.
func (g *Guest) Healthy(ctx context.Context) error {
	const command = `grep -q ' / ext4 rw' /proc/mounts && ! dmesg | grep -E 'I/O error|EXT4-fs error|Remounting filesystem'`
	if _, err := g.Con.Run(ctx, time.Minute, command); err != nil {
		return fmt.Errorf("the guest saw errors of its disk: %w", err)
	}
	return nil
}

// bootTries is how often a guest may be booted. Its systemd gives a device 90 s
// to appear, which an emulated guest on a busy host may miss.
const bootTries = 3

// BringUp boots a machine until a shell answers, after a try in which the host was
// too busy once more. took is the time of the last try, and tries tells their number. The
// guest may be not nil also with an error.
func (m *Machine) BringUp(ctx context.Context) (g *Guest, took time.Duration, tries int, err error) {
	for name := m.Name; ; {
		tries++
		try := *m
		try.Name = fmt.Sprint(name, tries)
		begin := time.Now()
		g, err = try.Boot(ctx, BootLimit)
		took = time.Since(begin)
		switch {
		case err != nil:
		case g.GaveUp():
			err = errors.New("the guest gave up waiting for its serial line; is the host too busy?")
		default:
			if err = g.Greet(ctx); err == nil {
				err = g.Healthy(ctx)
			}
		}
		if err == nil || tries == bootTries || ctx.Err() != nil || !g.GaveUp() {
			return g, took, tries, err
		}
		if err := g.PowerOff(); err != nil {
			return g, took, tries, err
		}
	}
}
