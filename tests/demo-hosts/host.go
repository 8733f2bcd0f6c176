package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sheepdog/internal/program"
	"sheepdog/tests/internal/vm"
)

// host is one machine with a disk of its own, which keeps what is on it over boots.
type host struct {
	name    string
	address string // in the network of the hosts
	mac     string // of its card there
	machine *vm.Machine
	guest   *vm.Guest
	boots   int
}

// newHost makes the disk of the host of a number, from 1 on.
func (s *story) newHost(ctx context.Context, number int) (*host, error) {
	h := &host{name: fmt.Sprintf("host%d", number), address: fmt.Sprintf("10.77.0.%d", number), mac: fmt.Sprintf("52:54:00:77:00:%02x", number)}
	disk := filepath.Join(s.dir, h.name+".qcow2")
	if _, err := program.Output(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", s.opt.image, "-F", "raw", disk); err != nil {
		return nil, err
	}
	h.machine = &vm.Machine{Accel: s.accel, Dir: s.dir, Args: []string{
		"-drive", "file=" + disk + ",format=qcow2,if=virtio,discard=unmap",
		"-drive", "file=" + s.packages() + ",format=raw,if=virtio,readonly=on",
		"-netdev", fmt.Sprintf("socket,id=net,mcast=230.77.0.1:%d,localaddr=127.0.0.1", s.port),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net,mac=%s", h.mac),
		"-device", "virtio-rng-pci",
	}}
	return h, nil
}

// boot returns when a shell answers.
func (h *host) boot(ctx context.Context) (err error) {
	h.boots++
	h.machine.Name = fmt.Sprintf("%s.%d.", h.name, h.boots) // of its logs
	if h.guest, _, _, err = h.machine.BringUp(ctx); err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	return nil
}

// commandLimit is how long a command in a guest may take: emulated on a busy machine it
// is some ten times slower than the machine itself.
const commandLimit = 3 * time.Minute

// run has the host's shell run a command, which must end with 0, and returns its output.
func (h *host) run(ctx context.Context, command string) (string, error) {
	out, err := h.guest.Con.Run(ctx, commandLimit, command)
	if err != nil {
		return out, fmt.Errorf("%s: %w", h.name, err)
	}
	return out, nil
}

// each runs all commands in order.
func (h *host) each(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		if _, err := h.run(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// until wants a command to end with 0 within a time.
func (h *host) until(ctx context.Context, limit time.Duration, what, command string) error {
	return program.Eventually(ctx, limit, h.name+": "+what, func() error {
		_, err := h.run(ctx, command)
		return err
	})
}

// network gives the host its address, over boots too.
func (h *host) network(ctx context.Context) error {
	return h.each(ctx,
		"hostname "+h.name+" && hostname > /etc/hostname",
		fmt.Sprintf(`printf '[Match]\nMACAddress=%s\n[Network]\nAddress=%s/24\nLinkLocalAddressing=no\n' > /etc/systemd/network/10-hosts.network`, h.mac, h.address),
		"systemctl -q enable --now systemd-networkd",
		"/lib/systemd/systemd-networkd-wait-online --timeout=120",
		"mkdir -p /mnt/packages && mount -o ro /dev/vdb /mnt/packages")
}

// packages is the disk that each host finds the packages on.
func (s *story) packages() string { return filepath.Join(s.dir, "packages.ext4") }

func (s *story) makePackageDisk(ctx context.Context) error {
	found, err := filepath.Glob(filepath.Join(s.opt.packages, "sheepdog_1.0.[01]_*.deb"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(s.opt.packages, "client")); err != nil || len(found) != 2 {
		return fmt.Errorf("%s has %d of two packages, client: %v; run make demo-hosts", s.opt.packages, len(found), err)
	}
	_, err = program.Output(ctx, "mke2fs", "-q", "-t", "ext4", "-d", s.opt.packages, s.packages(), "128M")
	return err
}
