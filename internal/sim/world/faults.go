package world

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Fault is something that happens to a cluster. Do returns after it is over, or
// at once with false if it cannot happen now.
type Fault struct {
	Name string
	Do   func(p *Play) bool
}

// AllFaults lists what can happen.
func AllFaults() []Fault {
	return []Fault{
		{"kill", (*Play).kill}, {"kill-quick", (*Play).killQuick}, {"kill-all", (*Play).killAll},
		{"power-loss", (*Play).powerLoss}, {"power-loss-all", (*Play).powerLossAll}, {"power-loss-most", (*Play).powerLossMost},
		{"freeze", (*Play).freeze}, {"partition", (*Play).partition}, {"one-way", (*Play).oneWay}, {"isolate", (*Play).isolate},
		{"flap", (*Play).flap}, {"rot", (*Play).rot}, {"leave", (*Play).leave}, {"join", (*Play).join},
		{"kill-two", (*Play).killTwo}, {"pause-recovery", (*Play).pauseRecovery}, {"misdirect", (*Play).misdirect},
		{"full-disk", (*Play).fullDisk}, {"slow-disk", (*Play).slowDisk}, {"lost-writes", (*Play).lostWrites},
		{"one-link", (*Play).oneLink}, {"clocks", (*Play).clocks}, {"kill-long", (*Play).killLong}, {"spoil", (*Play).spoil}, {"spoil-power-loss", (*Play).spoilPowerLoss}, {"new-disk", (*Play).newDisk}, {"old-disk", (*Play).oldDisk}, {"ailing-disk", (*Play).ailingDisk}, {"wall-clocks", (*Play).wallClocks},
		{"two-at-once", (*Play).twoAtOnce}, {"two-at-once", (*Play).twoAtOnce}, {"two-at-once", (*Play).twoAtOnce},
	}
}

// Only chooses faults by name.
func Only(names ...string) []Fault {
	var out []Fault
	for _, name := range names {
		found := false
		for _, f := range AllFaults() {
			if f.Name == name {
				out, found = append(out, f), true
			}
		}
		if !found {
			panic("no fault is named " + name)
		}
	}
	return out
}

func (p *Play) any() *Host {
	up := p.Up()
	return up[p.rng.IntN(len(up))]
}

// kill ends one node and starts it again after a while.
func (p *Play) kill() bool {
	return p.toOne(func(h *Host) {
		h.Kill()
		p.sleep(1500 * time.Millisecond)
		h.Boot()
	})
}

// killLong keeps a node away for so long that others may take its place.
func (p *Play) killLong() bool {
	return p.toOne(func(h *Host) {
		h.Kill()
		time.Sleep(time.Duration(2000+p.rng.IntN(4000)) * time.Millisecond)
		h.Boot()
	})
}

// killQuick starts it again before anybody may have noticed.
func (p *Play) killQuick() bool {
	return p.toOne(func(h *Host) {
		h.Kill()
		time.Sleep(time.Duration(p.rng.IntN(50)) * time.Millisecond)
		h.Boot()
	})
}

// twoAtOnce has a second fault begin while a first one goes on.
func (p *Play) twoAtOnce() bool {
	all := Only("kill", "kill-quick", "freeze", "partition", "isolate", "one-way", "one-link", "flap", "slow-disk", "full-disk", "ailing-disk", "clocks", "wall-clocks")
	first, second := all[p.rng.IntN(len(all))], all[p.rng.IntN(len(all))]
	p.Tracef("%s and %s at once", first.Name, second.Name)
	var wg sync.WaitGroup
	wg.Go(func() { p.run(first) })
	p.sleep(400 * time.Millisecond)
	done := p.run(second)
	wg.Wait()
	return done
}

// killTwo ends a second node while the first is away or catching up.
func (p *Play) killTwo() bool {
	first := p.any()
	first.Kill()
	p.sleep(500 * time.Millisecond)
	second := p.any()
	if p.rng.IntN(2) == 0 {
		first.Boot()
		second.Kill()
	} else {
		second.Kill()
		p.sleep(500 * time.Millisecond)
		first.Boot()
	}
	p.sleep(500 * time.Millisecond)
	second.Boot()
	return true
}

// killAll ends all nodes at once, or nearly so, and starts them in any order.
func (p *Play) killAll() bool {
	p.down((*Host).Kill)
	p.upAgain(func() {})
	return true
}

func (p *Play) down(how func(*Host)) {
	hosts := p.Up()
	p.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	for _, h := range hosts {
		how(h)
		if p.rng.IntN(3) == 0 {
			time.Sleep(time.Duration(p.rng.IntN(20)) * time.Millisecond)
		}
	}
}

// upAgain starts all nodes in any order, and then calls most. Now and then one comes
// long after the others, who have gone on without it.
func (p *Play) upAgain(most func()) {
	hosts := p.Hosts()
	p.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	late := hosts[:p.rng.IntN(2)]
	var wg sync.WaitGroup
	for _, h := range hosts[len(late):] {
		time.Sleep(time.Duration(p.rng.IntN(600)) * time.Millisecond)
		if h.Node() == nil {
			wg.Go(h.Boot)
		}
	}
	wg.Wait()
	most()
	for _, h := range late {
		p.sleep(2 * time.Second)
		h.Boot()
	}
}

// powerLoss takes the power from one host of a whole cluster. Nothing else
// happens until it is whole again: the others have all there is.
func (p *Play) powerLoss() bool {
	if !p.becomesWhole() {
		return false
	}
	h := p.any()
	h.PowerLoss()
	p.sleep(time.Second)
	h.Boot()
	return p.becomesWhole()
}

// powerLossMost takes the power from as many hosts of a whole cluster at once as one
// replica of everything survives, which has all that was acknowledged.
func (p *Play) powerLossMost() bool {
	lost := p.fewestCopies() - 1
	if lost < 2 || !p.becomesWhole() {
		return false
	}
	hosts := p.Up()
	if lost >= len(hosts) {
		return false
	}
	p.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	var wg sync.WaitGroup
	for _, h := range hosts[:lost] {
		wg.Go(h.PowerLoss)
	}
	wg.Wait()
	for _, h := range hosts[:lost] {
		p.sleep(300 * time.Millisecond)
		h.Boot()
	}
	return p.becomesWhole()
}

// fewestCopies is that of the VDI which has the fewest.
func (w *World) fewestCopies() int {
	fewest := w.opt.Copies
	for _, e := range w.Up()[0].Node().Directory().List() {
		fewest = min(fewest, int(e.Policy.Copies))
	}
	return fewest
}

// becomesWhole waits a while for the cluster to be whole.
func (p *Play) becomesWhole() bool {
	for range 1500 {
		if p.whole() == nil {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.Ledger.Fault(fmt.Errorf("the cluster did not become whole in 30 s at %v: %w", p.Now(), p.whole()))
	return false
}

// powerLossAll takes the power from all hosts at once: what was not flushed may
// be gone.
func (p *Play) powerLossAll() bool {
	p.gate.close()
	if p.rng.IntN(2) == 0 {
		time.Sleep(time.Duration(p.rng.IntN(3000)) * time.Microsecond)
	}
	var wg sync.WaitGroup
	for _, h := range p.Up() {
		wg.Go(h.Kill)
	}
	wg.Wait()
	p.gate.drain()
	for _, h := range p.Hosts() {
		h.PowerLoss()
	}
	p.Ledger.PowerLoss()
	p.upAgain(p.gate.open)
	return true
}

// freeze stops one host for a while.
func (p *Play) freeze() bool {
	return p.toOne(func(h *Host) {
		h.Freeze()
		p.sleep(1500 * time.Millisecond)
		h.Thaw()
	})
}

// partition splits the hosts.
func (p *Play) partition() bool {
	var a, b []string
	for _, h := range p.Hosts() {
		if p.rng.IntN(2) == 0 {
			a = append(a, h.Name)
		} else {
			b = append(b, h.Name)
		}
	}
	p.Tracef("partition %v | %v", a, b)
	p.net.Partition(a, b)
	p.sleep(1500 * time.Millisecond)
	p.Heal()
	return true
}

// isolate cuts one host off from all others.
func (p *Play) isolate() bool {
	hosts := p.Hosts()
	h := hosts[p.rng.IntN(len(hosts))]
	p.Tracef("isolate %d", h.Number)
	for _, o := range hosts {
		if o != h {
			p.net.Partition([]string{h.Name}, []string{o.Name})
		}
	}
	p.sleep(2 * time.Second)
	p.Heal()
	return true
}

// oneLink cuts two hosts off from each other; others hear both.
func (p *Play) oneLink() bool {
	hosts := p.Hosts()
	p.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	p.Tracef("cut %d - %d", hosts[0].Number, hosts[1].Number)
	p.net.Partition([]string{hosts[0].Name}, []string{hosts[1].Name})
	p.sleep(1500 * time.Millisecond)
	p.Heal()
	return true
}

// oneWay cuts some directions between hosts.
func (p *Play) oneWay() bool {
	p.cutSome()
	p.sleep(1500 * time.Millisecond)
	p.Heal()
	return true
}

func (p *Play) cutSome() {
	hosts := p.Hosts()
	for range 1 + p.rng.IntN(2) {
		a, b := hosts[p.rng.IntN(len(hosts))], hosts[p.rng.IntN(len(hosts))]
		if a != b {
			p.Tracef("cut %d -> %d", a.Number, b.Number)
			p.net.Cut(a.Name, b.Name)
		}
	}
}

// flap cuts and heals links many times.
func (p *Play) flap() bool {
	for range 2 + p.rng.IntN(5) {
		p.cutSome()
		p.sleep(150 * time.Millisecond)
		p.Heal()
		p.sleep(50 * time.Millisecond)
	}
	return true
}

// leave has one node leave in good order and come back later.
func (p *Play) leave() bool {
	if len(p.Up()) < 3 {
		return false
	}
	h := p.any()
	h.Leave()
	p.sleep(time.Second)
	h.Boot()
	return true
}

// join adds a host.
func (p *Play) join() bool {
	if len(p.Hosts()) >= 6 {
		return false
	}
	p.AddHost().Boot()
	return true
}

// pauseRecovery kills a node while recovery is disabled for a while.
func (p *Play) pauseRecovery() bool {
	if err := p.setRecovery(false); err != nil {
		p.Tracef("recover disable: %v", err)
	}
	p.kill()
	p.sleep(500 * time.Millisecond)
	if err := p.setRecovery(true); err != nil {
		p.Ledger.Fault(fmt.Errorf("recover enable: %w", err))
		return false
	}
	return true
}

// setRecovery enables or disables recovery through any node that can.
func (w *World) setRecovery(on bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		up := w.Up()
		err := up[w.rng.IntN(len(up))].Node().Backend().SetRecovery(ctx, on)
		if err == nil || ctx.Err() != nil {
			return err
		}
		w.Tracef("recovery %v: %v", on, err)
		time.Sleep(100 * time.Millisecond)
	}
}
