package world

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheepdog/api"
)

// slowDisk has the disk of one host take its time for a while.
func (p *Play) slowDisk() bool {
	return p.toOne(func(h *Host) {
		d := time.Duration(1+p.rng.IntN(9)) * []time.Duration{time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond}[p.rng.IntN(3)]
		p.Tracef("disk of %d takes %v per operation", h.Number, d)
		h.pace.Store(int64(d))
		p.sleep(1500 * time.Millisecond)
		h.pace.Store(0)
		p.Tracef("disk of %d is fast again", h.Number)
	})
}

// fullDisk lets writes find no space on one disk for a while.
func (p *Play) fullDisk() bool {
	return p.toOne(func(h *Host) {
		p.Tracef("disk of %d is full", h.Number)
		h.Disk.Fill(true)
		p.sleep(time.Second)
		h.Disk.Fill(false)
		p.Tracef("disk of %d has space again", h.Number)
	})
}

// ailingDisk fails some or all of what one disk is asked for a while; the node goes
// on.
func (p *Play) ailingDisk() bool {
	return p.toOne(func(h *Host) {
		every := 1 + p.rng.IntN(4)
		p.Tracef("disk of %d fails every operation of %d", h.Number, every)
		h.Disk.Ail(every)
		p.sleep(time.Second)
		h.Disk.Ail(0)
		p.Tracef("disk of %d works again", h.Number)
	})
}

// newDisk replaces the disk of one host of a whole cluster by an empty one.
func (p *Play) newDisk() bool {
	return p.another(func(h *Host) {
		h.Disk.Wreck()
		p.Tracef("host %d has a new disk", h.Number)
	})
}

// oldDisk has one host of a whole cluster come back with what its disk held some
// time ago.
func (p *Play) oldDisk() bool {
	if !p.becomesWhole() {
		return false
	}
	h := p.any()
	old := h.Disk.Copy()
	p.sleep(2 * time.Second)
	return p.anotherOf(h, func(h *Host) {
		h.Disk.Become(old)
		p.Tracef("host %d has its disk of before", h.Number)
	})
}

// another changes the disk of a host while its node is away. Nothing else happens
// from when the cluster was whole until it is again: the others have all there is.
func (p *Play) another(change func(*Host)) bool { return p.anotherOf(p.any(), change) }

func (p *Play) anotherOf(h *Host, change func(*Host)) bool {
	if !p.becomesWhole() {
		return false
	}
	h.Kill()
	change(h)
	p.sleep(time.Second)
	h.Boot()
	return p.becomesWhole()
}

// rot flips bits in blocks of one replica of a whole cluster, and has the
// cluster check itself.
func (p *Play) rot() bool {
	return p.damage("rot", func(d *Disk) int {
		return d.Rot(p.rng, 1+p.rng.IntN(20), anywhere)
	})
}

// misdirect lets writes of one replica of a whole cluster go astray.
func (p *Play) misdirect() bool {
	return p.damage("misdirect", func(d *Disk) int { return d.Misdirect(p.rng, 1+p.rng.IntN(5)) })
}

// lostWrites lets writes of one replica of a whole cluster be forgotten.
func (p *Play) lostWrites() bool {
	return p.damage("lost writes", func(d *Disk) int { return d.Lose(p.rng, 1+p.rng.IntN(10)) })
}

// spoil makes the metadata of objects on one disk of a whole cluster malformed.
func (p *Play) spoil() bool {
	return p.damage("spoiled", func(d *Disk) int { return d.Spoil(p.rng, 1+p.rng.IntN(4)) })
}

// spoilPowerLoss has the power of all hosts fail, and one of them come back with objects
// that are spoiled. The others have all that was flushed.
func (p *Play) spoilPowerLoss() bool {
	if !p.becomesWhole() {
		return false
	}
	h := p.any()
	n := h.Disk.Spoil(p.rng, 1+p.rng.IntN(4))
	p.Tracef("spoiled on %d: %d objects", h.Number, n)
	return p.powerLossAll() && p.becomesWhole() && p.mends() && n > 0
}

// damage harms one disk of a whole cluster, and has the cluster check itself.
func (p *Play) damage(what string, harm func(*Disk) int) bool {
	if !p.becomesWhole() {
		return false
	}
	h := p.any()
	n := harm(h.Disk)
	p.Tracef("%s on %d: %d places", what, h.Number, n)
	p.sleep(100 * time.Millisecond)
	return p.mends() && n > 0
}

// mends has the cluster check itself until nothing is wrong on any disk.
func (p *Play) mends() bool {
	for range 10 {
		err := p.check()
		if err == nil {
			return true
		}
		p.Tracef("check: %v", err)
		time.Sleep(time.Second)
	}
	p.Ledger.Fault(errors.New("the cluster could not be checked"))
	return false
}

func (p *Play) check() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), callLimit, errStalled)
	defer cancel()
	s, err := p.any().Node().Backend().Check(ctx, &api.CheckRequest{}, func(*api.CheckEvent) error { return nil })
	if err != nil {
		return err
	}
	if s.Lost > 0 {
		p.Ledger.Fault(fmt.Errorf("check at %v lost %d of %d", p.Now(), s.Lost, s.Found))
	}
	for _, h := range p.Hosts() {
		if err := h.Disk.Sound(); err != nil {
			return fmt.Errorf("host %d: %w", h.Number, err)
		}
	}
	return nil
}
