package chaos

import (
	"maps"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
	"sheepdog/tests/internal/register"
	"sheepdog/tests/internal/workload"
)

// All nodes lose power under load: what was not synced is gone from every disk.
// What was flushed is there, and nothing else than what somebody wrote.
func TestPowerCut(t *testing.T) {
	onlyLong(t) // the short form is in tests/e2e
	a := &arena{t: t}
	a.seed, a.rng = seeded(t)
	a.Lab, a.net = lab.PlanInNamespaces(t, 3)
	for _, s := range a.Sheep {
		a.GiveDisk(s, diskSize)
		a.Run(s)
	}
	a.furnish()
	held := map[int]register.Value{}
	for round := range rounds(t, 10, 0) {
		a.populate()
		time.Sleep(a.between(500*time.Millisecond, 5*time.Second))
		a.CutPower(a.Sheep...)
		seen := a.reg.guests.Stop(0)
		a.reg.last = a.reg.guests.Last()
		for _, i := range a.rng.Perm(3) {
			a.Spawn(a.Sheep[i])
		}
		for _, s := range a.Sheep {
			a.Answers(s)
		}
		a.Recovered(time.Minute)
		found := a.look()
		a.judgePowerCut(held, seen, found)
		t.Logf("round %d: %d reads and writes of registers, %d flushes before the cut", round, len(seen.Ops), len(seen.Flushes))
		held = found
		a.Checked()
		if t.Failed() {
			break
		}
	}
}

// judgePowerCut judges a life between two power cuts: held is what the registers
// held at its beginning, found what they hold now.
func (a *arena) judgePowerCut(held map[int]register.Value, seen *workload.Seen, found map[int]register.Value) {
	a.t.Helper()
	for reg, v := range held {
		if v != 0 {
			seen.Ops = append(seen.Ops, register.Op{Register: reg, Client: -1, Write: true, Value: v, Call: -2, Return: -2})
		}
	}
	for _, err := range append(register.Check(seen.Ops), seen.Wrong...) {
		a.t.Errorf("before the cut: %v", err)
	}
	for _, err := range register.AfterPowerCut(seen.Ops, seen.Flushes, found) {
		a.t.Errorf("after the cut: %v", err)
	}
}

// look reads all registers through every gateway, which agree.
func (a *arena) look() map[int]register.Value {
	a.t.Helper()
	var first map[int]register.Value
	for i, s := range a.Sheep {
		found, err := workload.Look(a.t.Context(), a.Socket(s), a.reg.name, a.reg.spans)
		switch {
		case err != nil:
			a.t.Fatalf("gateway %d: %v", i, err)
		case first == nil:
			first = found
		case !maps.Equal(first, found):
			a.t.Errorf("gateways 0 and %d read differently", i)
		}
	}
	return first
}
