package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"sheepdog/tests/internal/report"
	"sheepdog/tests/internal/vm"
)

func (d *demo) chooseAccelerator(ctx context.Context, r *report.Row) error {
	var err error
	d.accel, r.Verified, err = vm.Accelerator(ctx, d.dir, d.opt.image)
	return err
}

func (d *demo) bootClone(ctx context.Context, r *report.Row) error {
	d.writer.files = make(files)
	return d.bringUp(ctx, r, "guest", d.gateway())
}

// bringUp boots the clone through a sheep until a shell answers.
func (d *demo) bringUp(ctx context.Context, r *report.Row, name string, s *sheep) error {
	m := &vm.Machine{Name: name, Accel: d.accel, Args: d.nbdDisk(s, "vm"), Dir: d.dir, Keep: d.opt.keep}
	var tries int
	var err error
	if d.guest, r.Took, tries, err = m.BringUp(ctx); err != nil {
		return err
	}
	r.Verified = "a shell answers; no disk error"
	if tries > 1 {
		r.Verified += fmt.Sprintf("; try %d, the host was too busy for the guest's time limits", tries)
	}
	d.writer.con = d.guest.Con
	return nil
}

// noticeLimit is how long the living may take to remove a dead node.
const noticeLimit = 30 * time.Second

// killReplica kills a node that holds a third of all replicas. The guest waits
// until the others have agreed that it is dead, and goes on.
func (d *demo) killReplica(ctx context.Context, r *report.Row) error {
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
		r.Took = time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	r.Verified = fmt.Sprintf("removed by commit; the guest wrote %d files, no error", p.written)
	d.report.Add("longest pause of the guest before", p.before, "")
	d.report.Add("longest pause of the guest after", p.after, "")
	return d.guest.Healthy(ctx)
}

// killGateway kills the process to which the guest is attached, which also
// coordinates its disk, and starts it again as systemd would. QEMU holds the
// guest's requests meanwhile. Of two nodes one is no majority: the other can
// serve again only with this one.
func (d *demo) killGateway(ctx context.Context, r *report.Row) error {
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
		r.Took = time.Since(begin)
		return err
	})
	if err != nil {
		return err
	}
	r.Verified = fmt.Sprintf("member again; the guest wrote %d files, no error", p.written)
	d.report.Add("longest pause of the guest before", p.before, "")
	d.report.Add("longest pause of the guest after", p.after, "")
	return d.guest.Healthy(ctx)
}

func (d *demo) readFiles(ctx context.Context, r *report.Row) error {
	r.Verified = fmt.Sprintf("%d files have the sums that were told when they were synced", len(d.writer.files))
	return d.writer.verify(ctx)
}

// bootAgain takes the guest's power away, without a shutdown: what it synced
// must be there.
func (d *demo) bootAgain(ctx context.Context, r *report.Row) error {
	if err := d.guest.PowerOff(); err != nil {
		return err
	}
	return d.bringUp(ctx, r, "again", d.other())
}

// recoverLimit is how long a returned node may take to be complete.
const recoverLimit = 5 * time.Minute

func (d *demo) recover(ctx context.Context, r *report.Row) error {
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
	r.Took = time.Since(begin)
	r.Verified = "3 members, none recovering, the guest healthy"
	if err := d.running(ctx, 3); err != nil {
		return err
	}
	return d.guest.Healthy(ctx)
}

func (d *demo) check(ctx context.Context, r *report.Row) error {
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
	r.Verified = fmt.Sprintf("all replicas of %d objects are equal", report.Summary.Objects)
	return nil
}

// stopAll shuts the guest and the cluster down as an operator would.
func (d *demo) stopAll(ctx context.Context, r *report.Row) error {
	if err := d.guest.Con.Send("systemctl poweroff"); err != nil {
		return err
	}
	if err := d.guest.Proc.Ended(3 * time.Minute); err != nil {
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
	r.Verified = "every process ended by itself"
	return nil
}
