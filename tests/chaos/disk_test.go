package chaos

import (
	"strconv"
	"time"

	"sheepdog/tests/internal/lab"
	"sheepdog/tests/internal/workload"
)

// disk is a VDI with registers, and all that guests ever saw of them.
type disk struct {
	a     *arena
	name  string
	spans []workload.Span
	since time.Time

	guests *workload.Guests // while there are some
	past   workload.Seen
	last   uint64 // value written
}

// disk makes a VDI of size bytes with n spans of registers.
func (a *arena) disk(name string, size uint64, n int) *disk {
	a.t.Helper()
	a.Dog("vdi", "create", name, strconv.FormatUint(size, 10))
	return &disk{a: a, name: name, spans: workload.Layout(a.rng, n, size), since: time.Now()}
}

// populate lets a guest loose at each of some gateways.
func (d *disk) populate(cfg workload.Config, at ...*lab.Sheep) {
	cfg.Export, cfg.Spans, cfg.Seed, cfg.Since, cfg.From = d.name, d.spans, d.a.rng.Uint64(), d.since, d.last
	for _, s := range at {
		cfg.Sockets = append(cfg.Sockets, d.a.Socket(s))
	}
	d.guests = workload.Start(cfg)
}

// stop ends the guests and returns what they saw since populate.
func (d *disk) stop() *workload.Seen {
	seen := d.guests.Stop(answerLimit)
	d.last, d.guests = d.guests.Last(), nil
	d.past.Add(seen)
	return seen
}

// judge fails the test if guests ever saw something wrong.
func (d *disk) judge() {
	d.a.t.Helper()
	if err := d.past.Judge(); err != nil {
		d.a.t.Errorf("guests of %s: %v", d.name, err)
	}
}
