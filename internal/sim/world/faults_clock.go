package world

import "time"

// fastest is by how many thousandths the clock of a host may be too fast or too
// slow. The margin of leases covers a difference of a twentieth.
const fastest = 20

// clocks changes the speed of all clocks.
func (p *Play) clocks() bool {
	for _, h := range p.Hosts() {
		rate := p.rng.IntN(2*fastest+1) - fastest
		p.Tracef("clock of %d is %d/1000 too fast", h.Number, rate)
		h.clock.steer(rate)
	}
	return true
}

// expiry is when snapshots of plays are deleted, long after their end by most clocks.
const expiry = 24 * time.Hour

// wallClocks sets the wall clocks of all hosts: of fewer than half of them by years,
// to before 1970 too, of the others by less than it takes for anything to expire.
func (p *Play) wallClocks() bool {
	hosts := p.Hosts()
	p.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	few := p.rng.IntN((len(hosts) + 1) / 2)
	for i, h := range hosts {
		far := []time.Duration{time.Second, time.Minute, expiry / 2}[p.rng.IntN(3)]
		if i < few {
			far = []time.Duration{30 * expiry, 35 * 365 * expiry}[p.rng.IntN(2)]
		}
		wrong := time.Duration(p.rng.Int64N(2*int64(far)) - int64(far)).Round(time.Second)
		p.Tracef("wall clock of %d is wrong by %v", h.Number, wrong)
		h.wall.wrong.Store(int64(wrong))
	}
	return true
}
