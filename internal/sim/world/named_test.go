package world

import (
	"testing"
	"time"
)

// TestScenarios plays each kind of fault by itself and a few mixes that once
// found something, each named after what it is about.
func TestScenarios(t *testing.T) {
	for _, s := range []struct {
		name  string
		short bool // also played with -short
		opt   Options
		Script
	}{
		{"nothing happens", true, Options{}, Script{Faults: Only("join"), Count: 1}},
		{"killed nodes come back", true, Options{}, Script{Faults: Only("kill", "kill-quick", "kill-two")}},
		{"the whole cluster is killed", false, Options{}, Script{Faults: Only("kill-all"), Count: 3}},
		{"the power fails everywhere", false, Options{}, Script{Faults: Only("power-loss-all"), Count: 3}},
		{"one host loses power", false, Options{}, Script{Faults: Only("power-loss"), Count: 4}},
		{"nodes pause", false, Options{}, Script{Faults: Only("freeze")}},
		{"the network splits", false, Options{Nodes: 5}, Script{Faults: Only("partition", "isolate", "one-way", "flap")}},
		{"a cut-off coordinator returns", false, Options{}, Script{Faults: Only("isolate"), Count: 6, Disks: 1, Clients: 6}},
		{"disks rot", false, Options{}, Script{Faults: Only("rot", "kill")}},
		{"nodes join and leave", false, Options{Nodes: 4}, Script{Faults: Only("join", "leave")}},
		{"layers are absorbed while nodes are away", false, Options{}, Script{Faults: Only("leave", "freeze", "kill", "kill-two"), Clients: 2, Pause: 8 * time.Millisecond}},
	} {
		t.Run(s.name, func(t *testing.T) {
			if testing.Short() && !s.short {
				t.Skip()
			}
			t.Parallel()
			s.opt.Seed = uint64(number(t, "SEED", 1))
			if s.Count == 0 {
				s.Count = 5
			}
			play(t, s.opt, s.Script)
		})
	}
}
