package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"
)

func (d *demo) chooseAccelerator(ctx context.Context, r *row) error {
	var err error
	d.accel, r.verified, err = d.accelerator(ctx)
	return err
}

func (d *demo) bootClone(ctx context.Context, r *row) error {
	d.writer.files = make(files)
	return d.bringUp(ctx, r, "guest", d.gateway())
}

// bootTries is how often a guest may be booted. Its systemd gives a device 90 s
// to appear, which an emulated guest on a busy host may miss.
const bootTries = 3

// bringUp boots the clone through a sheep until a shell answers.
func (d *demo) bringUp(ctx context.Context, r *row, name string, s *sheep) error {
	for try := 1; ; try++ {
		begin := time.Now()
		m := &machine{name: fmt.Sprint(name, try), accel: d.accel, disk: d.nbdDisk(s, "vm")}
		err := d.boot(ctx, m, bootLimit)
		r.took = time.Since(begin)
		switch {
		case err != nil:
		case d.guest.con.saw(deviceTimeout):
			err = errors.New("the guest gave up waiting for its serial line; is the host too busy?")
		default:
			err = d.greet(ctx)
		}
		if err == nil {
			r.verified = "a shell answers; no disk error"
			if try > 1 {
				r.verified += fmt.Sprintf("; try %d, the host was too busy for the guest's time limits", try)
			}
			d.writer.con = d.guest.con
			return nil
		}
		if try == bootTries || ctx.Err() != nil || d.guest.con == nil || !d.guest.con.saw(deviceTimeout) {
			return err
		}
		if err := d.guest.powerOff(); err != nil {
			return err
		}
	}
}

var deviceTimeout = regexp.MustCompile("Timed out waiting for device.*ttyS0")

// greetLimit is how long the shell of a guest that is up may take to answer.
const greetLimit = 8 * time.Minute

// greet makes sure of the guest's shell.
func (d *demo) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, greetLimit, fmt.Errorf("the guest's shell does not answer within %v", greetLimit))
	defer cancel()
	if err := d.guest.con.greet(ctx); err != nil {
		return err
	}
	return d.guest.healthy(ctx)
}

// noticeLimit is how long the living may take to remove a dead node.
const noticeLimit = 30 * time.Second

// killReplica kills a node that holds a third of all replicas. The guest waits
// until the others have agreed that it is dead, and goes on.
func (d *demo) killReplica(ctx context.Context, r *row) error {
	was, err := d.info(ctx, d.gateway())
	if err != nil {
		return err
	}
	p, err := d.writer.during(ctx, func() error {
		begin := time.Now()
		if err := d.victim().proc.Kill(); err != nil {
			return err
		}
		err := d.members(ctx, noticeLimit, 2, was.Epoch)
		r.took = time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	r.verified = fmt.Sprintf("removed by commit; the guest wrote %d files, no error", p.written)
	d.report.add("longest pause of the guest before", p.before, "")
	d.report.add("longest pause of the guest after", p.after, "")
	return d.guest.healthy(ctx)
}

// killGateway kills the process to which the guest is attached, which also
// coordinates its disk, and starts it again as systemd would. QEMU holds the
// guest's requests meanwhile. Of two nodes one is no majority: the other can
// serve again only with this one.
func (d *demo) killGateway(ctx context.Context, r *row) error {
	was, err := d.info(ctx, d.other())
	if err != nil {
		return err
	}
	p, err := d.writer.during(ctx, func() error {
		begin := time.Now()
		if err := d.gateway().proc.Kill(); err != nil {
			return err
		}
		if err := d.start(ctx, d.gateway()); err != nil {
			return err
		}
		err := d.members(ctx, noticeLimit, 2, was.Epoch)
		r.took = time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	r.verified = fmt.Sprintf("member again; the guest wrote %d files, no error", p.written)
	d.report.add("longest pause of the guest before", p.before, "")
	d.report.add("longest pause of the guest after", p.after, "")
	return d.guest.healthy(ctx)
}

func (d *demo) readFiles(ctx context.Context, r *row) error {
	r.verified = fmt.Sprintf("%d files have the sums that were told when they were synced", len(d.writer.files))
	return d.writer.verify(ctx)
}

// bootAgain takes the guest's power away, without a shutdown: what it synced
// must be there.
func (d *demo) bootAgain(ctx context.Context, r *row) error {
	if err := d.guest.powerOff(); err != nil {
		return err
	}
	return d.bringUp(ctx, r, "again", d.other())
}

// recoverLimit is how long a returned node may take to be complete.
const recoverLimit = 5 * time.Minute

func (d *demo) recover(ctx context.Context, r *row) error {
	was, err := d.info(ctx, d.gateway())
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := d.start(ctx, d.victim()); err != nil {
		return err
	}
	if err := d.members(ctx, noticeLimit, 3, was.Epoch); err != nil {
		return err
	}
	if err := d.recovered(ctx, recoverLimit); err != nil {
		return err
	}
	r.took = time.Since(begin)
	r.verified = "3 members, none recovering, the guest healthy"
	if err := d.running(ctx, 3); err != nil {
		return err
	}
	return d.guest.healthy(ctx)
}

func (d *demo) check(ctx context.Context, r *row) error {
	out, err := d.dog(ctx, d.victim(), "cluster", "check", "-o", "json")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	var report struct {
		Summary struct{ Objects, Found, Lost int }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return err
	}
	if s := report.Summary; s.Objects == 0 || s.Found != 0 || s.Lost != 0 {
		return fmt.Errorf("recovery ended, and yet replicas differ:\n%s", out)
	}
	r.verified = fmt.Sprintf("all replicas of %d objects are equal", report.Summary.Objects)
	return nil
}

// stopAll shuts the guest and the cluster down as an operator would.
func (d *demo) stopAll(ctx context.Context, r *row) error {
	if err := d.guest.con.send("systemctl poweroff"); err != nil {
		return err
	}
	if err := d.guest.proc.Ended(3 * time.Minute); err != nil {
		return err
	}
	if _, err := d.dog(ctx, d.gateway(), "cluster", "shutdown"); err != nil {
		return err
	}
	for _, s := range d.sheep {
		if err := s.proc.Ended(30 * time.Second); err != nil {
			return err
		}
	}
	r.verified = "every process ended by itself"
	return nil
}
