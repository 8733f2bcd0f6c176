package model

import (
	"strings"
	"testing"
)

const enough = 3_000_000 // states; no configuration here comes near it

// exhausted are the bounds within which all rules together hold. Those marked
// small run with -short, too.
var exhausted = []struct {
	name   string
	small  bool
	bounds Bounds
}{
	{"a power loss with a flush and a promotion", true,
		Bounds{Replicas: 2, Acting: 2, Views: 4, Writes: 1, Reads: 2, Flushes: 1, PowerLosses: 1, Promotions: 1}},
	{"a blackout of one acting replica and a target", false,
		Bounds{Replicas: 2, Acting: 1, Views: 4, Writes: 1, Reads: 1, Flushes: 1, Blackouts: 1, Promotions: 1}},
	{"overlapping writes and another coordinator", true,
		Bounds{Replicas: 1, Acting: 1, Views: 2, Writes: 2, Reads: 2, Appointments: 1}},
	{"a target is promoted under another coordinator", true,
		Bounds{Replicas: 2, Acting: 1, Views: 3, Writes: 1, Reads: 2, Appointments: 1, Promotions: 1}},
	{"two writes, removal, return, another coordinator", false,
		Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 2, Reads: 2, Appointments: 1, Removals: 1, Promotions: 1}},
	{"three replicas, a killed one, a removal", false,
		Bounds{Replicas: 3, Acting: 3, Views: 3, Writes: 1, Reads: 1, Kills: 1, Removals: 1}},
	{"removal, return and promotion in five views", false,
		Bounds{Replicas: 2, Acting: 2, Views: 5, Writes: 1, Reads: 1, Kills: 1, Removals: 1, Promotions: 1}},
	{"three replicas, another coordinator, removal and promotion", false,
		Bounds{Replicas: 3, Acting: 3, Views: 3, Writes: 1, Reads: 1, Appointments: 1, Removals: 1, Promotions: 1}},
	{"a disk is lost", true,
		Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 1, Reads: 1, Flushes: 1, DiskLosses: 1, Promotions: 1}},
	{"a disk is lost under another coordinator", false,
		Bounds{Replicas: 2, Acting: 2, Views: 4, Writes: 1, Reads: 1, DiskLosses: 1, Appointments: 1, Promotions: 1}},
	{"a disk is lost, and the other replica removed", true,
		Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 1, Reads: 1, Flushes: 1, DiskLosses: 1, Removals: 1}},
	{"a target loses its disk", false,
		Bounds{Replicas: 2, Acting: 1, Views: 4, Writes: 1, Reads: 1, Flushes: 1, DiskLosses: 1, Promotions: 2}},
	{"the whole cluster loses power", false,
		Bounds{Replicas: 2, Acting: 2, Views: 4, Writes: 1, Reads: 2, Flushes: 1, Blackouts: 1}},
}

func TestAllRulesHold(t *testing.T) {
	for _, c := range exhausted {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && !c.small {
				t.Skip("long")
			}
			t.Parallel()
			b := c.bounds
			b.States, b.Symmetry = enough, true
			r := Check(b, AllRules)
			if r.Violation != "" || !r.Exhausted {
				t.Fatalf("%+v: %v", b, r)
			}
			t.Logf("%+v: %v", b, r)
		})
	}
}

// broken are the smallest bounds known in which the protocol without one rule
// fails, and how.
var broken = []struct {
	without Rule
	how     string
	bounds  Bounds
}{
	{Fence, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 2, Writes: 1, Reads: 2, Appointments: 1}},
	{Incarnation, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 1, Reads: 1, PowerLosses: 1, Removals: 1}},
	{AckView, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 1, Reads: 1, PowerLosses: 1, Promotions: 1}},
	{TargetAcks, "at rest", Bounds{Replicas: 2, Acting: 1, Views: 2, Writes: 1, Reads: 1, Promotions: 1}},
	{LastCopy, "a read returns", Bounds{Replicas: 2, Acting: 2, Views: 4, Writes: 1, Reads: 1, PowerLosses: 1, Removals: 1}},
	{Stamp, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 1, Writes: 2, Reads: 1}},
	{ReadView, "a read returns", Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 1, Reads: 1, PowerLosses: 1, Removals: 1}},
	{HoldReads, "a read returns", Bounds{Replicas: 2, Acting: 2, Views: 2, Writes: 1, Reads: 2, Appointments: 1}},
	{Lease, "a read returns", Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 1, Reads: 1, Appointments: 1, Removals: 1}},
	{Promise, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 2, Writes: 1, Reads: 2, Appointments: 1}},
	{Reconcile, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 2, Writes: 1, Reads: 2, Appointments: 1}},
	{Overwrite, "at rest", Bounds{Replicas: 2, Acting: 1, Views: 3, Writes: 1, Reads: 1, Appointments: 1, Promotions: 1}},
	{BackfillView, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 4, Writes: 1, Reads: 1, Removals: 1, Promotions: 1}},
	{DurableBackfill, "the flushed", Bounds{Replicas: 2, Acting: 1, Views: 3, Writes: 1, Reads: 1, Flushes: 1, PowerLosses: 1, Removals: 1, Promotions: 1}},
	{PromoteGuard, "at rest", Bounds{Replicas: 2, Acting: 1, Views: 4, Writes: 1, Reads: 1, Removals: 1, Promotions: 1}},
	{Origin, "a read returns", Bounds{Replicas: 1, Acting: 1, Views: 2, Writes: 2, Reads: 2, Appointments: 1}},
	{Demote, "at rest", Bounds{Replicas: 2, Acting: 2, Views: 3, Writes: 1, Reads: 1, DiskLosses: 1, Promotions: 1}},
	{FlushAll, "the flushed", Bounds{Replicas: 2, Acting: 2, Views: 2, Writes: 1, Reads: 1, Flushes: 1, PowerLosses: 1, Removals: 1}},
}

// TestEveryRuleIsNeeded takes one rule away and expects a counterexample, in
// bounds in which all rules together hold.
func TestEveryRuleIsNeeded(t *testing.T) {
	var tried Rule
	for _, c := range broken {
		tried |= c.without
		t.Run(c.without.String(), func(t *testing.T) {
			t.Parallel()
			b := c.bounds
			b.States = enough
			r := Check(b, AllRules&^c.without)
			if r.Violation == "" {
				t.Fatalf("without it %+v: %v", b, r)
			}
			if !strings.Contains(r.Violation, c.how) {
				t.Errorf("another counterexample than the known one (%q): %v", c.how, r)
			}
			if len(r.Trace) != r.Depth {
				t.Errorf("trace of %d steps to depth %d", len(r.Trace), r.Depth)
			}
			t.Logf("without %v: %v", c.without, r)
			if testing.Short() {
				return
			}
			b.Symmetry = true
			if r := Check(b, AllRules); r.Violation != "" || !r.Exhausted {
				t.Errorf("with it %+v: %v", b, r)
			}
		})
	}
	if tried != AllRules {
		t.Errorf("no counterexample is known for %v", AllRules&^tried)
	}
}

// The naive protocol, without any rule, fails at once.
func TestNoRules(t *testing.T) {
	r := Check(Bounds{Replicas: 2, Acting: 2, Views: 1, Writes: 1, Reads: 2, States: enough}, 0)
	if r.Violation == "" || r.Depth > 8 {
		t.Fatalf("want a short counterexample, got %v", r)
	}
}

// Renaming replicas must not change what is found.
func TestSymmetryKeepsVerdicts(t *testing.T) {
	for _, c := range broken[:6] {
		b := c.bounds
		b.States, b.Symmetry = enough, true
		if r := Check(b, AllRules&^c.without); r.Violation == "" {
			t.Errorf("without %v, %+v: nothing found when replicas are interchangeable", c.without, b)
		}
	}
}

func TestLimitIsReported(t *testing.T) {
	r := Check(Bounds{Replicas: 3, Acting: 3, Views: 3, Writes: 1, Reads: 1, Kills: 1, Removals: 1, States: 100}, AllRules)
	if r.Exhausted || r.Violation != "" || !strings.Contains(r.String(), "not exhausted") {
		t.Errorf("a search that gave up says %v", r)
	}
}
