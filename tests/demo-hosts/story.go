package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog/internal/program"
	"sheepdog/tests/internal/report"
	"sheepdog/tests/internal/vm"
)

// story is one run: what it started, and what it knows.
type story struct {
	opt    options
	dir    string // of everything that the run makes
	report *report.Report

	accel string
	port  int // of the hosts' network
	hosts []*host
	wrote int // blocks that the client was answered
}

const (
	oldPackage = "/mnt/packages/sheepdog_1.0.0_*.deb"
	newPackage = "/mnt/packages/sheepdog_1.0.1_*.deb"
	socket     = "/run/sheepdog/nbd.sock"
	client     = "/mnt/packages/client"
	// settleLimit is how long the cluster may take to have all hosts, and no recovery.
	settleLimit = 3 * time.Minute
)

// play takes the steps in order.
func (s *story) play(ctx context.Context) error {
	for _, step := range []struct {
		what string
		do   func(context.Context, *report.Row) error
	}{
		{"choose KVM or emulation", s.choose},
		{"boot three hosts", s.boot},
		{"install the package", s.install},
		{"join them: edit /etc/default/sheepdog, restart", s.join},
		{"dog cluster format --copies 3, create a disk", s.format},
		{"upgrade all, one by one, under a client's writes", s.upgrade},
		{"cut the power of one under writes", s.powerCut},
		{"boot it: the service starts, and is complete", s.bootAgain},
		{"reboot another as an operator does", s.reboot},
		{"dog cluster check", s.check},
		{"remove the package from one", s.remove},
		{"purge and install again", s.purge},
	} {
		if err := s.report.Step(step.what, func(r *report.Row) error { return step.do(ctx, r) }); err != nil {
			return err
		}
	}
	return nil
}

// all does the same at each host at a time.
func (s *story) all(ctx context.Context, do func(ctx context.Context, h *host) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range s.hosts {
		g.Go(func() error { return do(ctx, h) })
	}
	return g.Wait()
}

func (s *story) choose(ctx context.Context, r *report.Row) (err error) {
	if err = os.Mkdir(filepath.Join(s.dir, "log"), 0o700); err != nil {
		return err
	}
	s.accel, r.Verified, err = vm.Accelerator(ctx, s.dir, s.opt.image)
	return err
}

func (s *story) boot(ctx context.Context, r *report.Row) (err error) {
	if err := s.makePackageDisk(ctx); err != nil {
		return err
	}
	if s.port, err = program.FreePort(); err != nil {
		return err
	}
	for n := range 3 {
		h, err := s.newHost(ctx, n+1)
		if err != nil {
			return err
		}
		s.hosts = append(s.hosts, h)
	}
	r.Verified = "each has a shell, and its address"
	return s.all(ctx, func(ctx context.Context, h *host) error {
		if err := h.boot(ctx); err != nil {
			return err
		}
		return h.network(ctx)
	})
}

// install leaves the configuration as it comes: each host is by itself.
func (s *story) install(ctx context.Context, r *report.Row) error {
	r.Verified = "the service runs, dog reaches it, the socket is the group kvm's"
	return s.all(ctx, func(ctx context.Context, h *host) error {
		return h.each(ctx, "dpkg -i "+oldPackage, "systemctl is-active sheepdog", "systemctl is-enabled sheepdog", "dog node list -r",
			`test "$(stat -c '%a %G' `+socket+`)" = '660 kvm'`)
	})
}

func (s *story) join(ctx context.Context, r *report.Row) error {
	err := s.all(ctx, func(ctx context.Context, h *host) error {
		var others []string
		for _, o := range s.hosts {
			if o != h {
				others = append(others, o.address+":7000")
			}
		}
		options := fmt.Sprintf("-y %s -c gossip:%s", h.address, strings.Join(others, ","))
		return h.each(ctx, fmt.Sprintf(`sed -i 's/^SHEEP_OPTIONS=.*/SHEEP_OPTIONS="%s"/' /etc/default/sheepdog`, options), "systemctl restart sheepdog")
	})
	if err != nil {
		return err
	}
	r.Verified = "each lists all three"
	return s.members(ctx, 3)
}

// members wants each running host to list so many.
func (s *story) members(ctx context.Context, n int) error {
	for _, h := range s.hosts {
		if !h.guest.Proc.Alive() {
			continue
		}
		if err := h.until(ctx, settleLimit, fmt.Sprintf("lists %d nodes", n), fmt.Sprintf(`test "$(dog node list -r | wc -l)" = %d`, n)); err != nil {
			return err
		}
	}
	return nil
}

// settled wants all hosts to be members and complete.
func (s *story) settled(ctx context.Context) error {
	if err := s.members(ctx, 3); err != nil {
		return err
	}
	return s.hosts[0].until(ctx, settleLimit, "nothing recovers", `out=$(dog node recovery -r) && test -z "$out"`)
}

func (s *story) format(ctx context.Context, r *report.Row) error {
	if err := s.hosts[0].each(ctx, "dog cluster format --copies 3", "dog vdi create data 1G"); err != nil {
		return err
	}
	if err := s.hosts[2].each(ctx, "dog vdi list data"); err != nil {
		return err
	}
	r.Verified = "each zone is a host; the disk is seen from another"
	return s.hosts[1].each(ctx, `test "$(dog node list -r | cut -d ' ' -f 4 | sort -u | wc -l)" = 3`)
}

// writing has a client of the first host write while something happens. Its one
// connection must hold, and it must be answered afterwards too.
func (s *story) writing(ctx context.Context, meanwhile func() error) (longest time.Duration, err error) {
	h := s.hosts[0]
	if err := h.each(ctx, "("+client+" write "+socket+" data > /root/client.log 2>&1 & echo $! > /root/client.pid)"); err != nil {
		return 0, err
	}
	if err := h.until(ctx, settleLimit, "the client writes", "sleep 1; kill -0 $(cat /root/client.pid)"); err != nil {
		return 0, err
	}
	if err := meanwhile(); err != nil {
		return 0, err
	}
	out, err := h.run(ctx, `sleep 1; kill $(cat /root/client.pid); while kill -0 $(cat /root/client.pid) 2>/dev/null; do sleep 0.2; done; cat /root/client.log`)
	if err != nil {
		return 0, err
	}
	m := written.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s: the client says: %s", h.name, strings.TrimSpace(out))
	}
	if s.wrote, err = strconv.Atoi(m[1]); err != nil {
		return 0, err
	}
	ms, err := strconv.Atoi(m[2])
	return time.Duration(ms) * time.Millisecond, err
}

var written = regexp.MustCompile(`wrote (\d+) longest (\d+) ms`)

// verify reads what the client wrote through a host.
func (s *story) verify(ctx context.Context, h *host) error {
	_, err := h.run(ctx, fmt.Sprintf("%s verify %s data %d", client, socket, s.wrote))
	return err
}

func (s *story) upgrade(ctx context.Context, r *report.Row) error {
	begin := time.Now()
	longest, err := s.writing(ctx, func() error {
		for _, h := range s.hosts {
			if err := h.each(ctx, "dpkg -i "+newPackage, "systemctl is-active sheepdog", "sheep --version | grep -q 1.0.1"); err != nil {
				return err
			}
			if err := s.settled(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Took = time.Since(begin)
	r.Verified = fmt.Sprintf("one connection all the time, %d blocks, read through each host", s.wrote)
	s.report.Add("longest write with its flush", longest, "")
	return s.all(ctx, s.verify)
}

// powerCut ends the machine at once. Its disk keeps what it was given, also without a
// flush: that is another test's (tests/e2e, power cuts).
func (s *story) powerCut(ctx context.Context, r *report.Row) error {
	longest, err := s.writing(ctx, func() error {
		begin := time.Now()
		if err := s.hosts[2].guest.PowerOff(); err != nil {
			return err
		}
		err := s.members(ctx, 2)
		r.Took = time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	r.Verified = fmt.Sprintf("two members; the client went on, %d blocks", s.wrote)
	s.report.Add("longest write with its flush", longest, "")
	return s.verify(ctx, s.hosts[1])
}

func (s *story) bootAgain(ctx context.Context, r *report.Row) error {
	return s.returns(ctx, r, s.hosts[2])
}

// returns boots a host that was off and wants it back in the cluster, with nobody's help.
func (s *story) returns(ctx context.Context, r *report.Row, h *host) error {
	begin := time.Now()
	if err := h.boot(ctx); err != nil {
		return err
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	r.Took = time.Since(begin)
	r.Verified = "three members, nothing to recover, the client's blocks are there"
	if err := h.each(ctx, "mount -o ro /dev/vdb /mnt/packages"); err != nil {
		return err
	}
	return s.verify(ctx, h)
}

// reboot ends QEMU where a machine would start again, and then boots it.
func (s *story) reboot(ctx context.Context, r *report.Row) error {
	h := s.hosts[1]
	if err := h.guest.Con.Send("systemctl reboot"); err != nil {
		return err
	}
	if err := h.guest.Proc.Ended(5 * time.Minute); err != nil {
		return err
	}
	h.guest.Con.Close()
	if err := s.members(ctx, 2); err != nil {
		return err
	}
	return s.returns(ctx, r, h)
}

func (s *story) check(ctx context.Context, r *report.Row) error {
	r.Verified = "all replicas are equal; no unit failed anywhere"
	if err := s.hosts[1].each(ctx, "dog cluster check"); err != nil {
		return err
	}
	return s.all(ctx, func(ctx context.Context, h *host) error {
		return h.each(ctx, `test -z "$(systemctl --failed --plain --no-legend)"`)
	})
}

func (s *story) remove(ctx context.Context, r *report.Row) error {
	h := s.hosts[2]
	if err := h.each(ctx, "dpkg -r sheepdog", "! systemctl is-active sheepdog", "! command -v sheep", "test -n \"$(ls /var/lib/sheepdog)\"", "test -e /etc/default/sheepdog"); err != nil {
		return err
	}
	r.Verified = "the node has left by a commit, its data and configuration stay"
	return s.hosts[0].until(ctx, settleLimit, "lists 2 nodes", `test "$(dog node list -r | wc -l)" = 2`)
}

// purge loses the configuration, and no data: with it written again the node is back.
func (s *story) purge(ctx context.Context, r *report.Row) error {
	h := s.hosts[2]
	if err := h.each(ctx, "cp /etc/default/sheepdog /root/", "dpkg -P sheepdog", "! test -e /etc/default/sheepdog", "test -n \"$(ls /var/lib/sheepdog)\"",
		"cp /root/sheepdog /etc/default/sheepdog", "DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "+newPackage); err != nil {
		return err
	}
	r.Verified = "three members, nothing to recover, the client's blocks are there"
	if err := s.settled(ctx); err != nil {
		return err
	}
	return s.verify(ctx, h)
}
