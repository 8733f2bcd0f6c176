// Package model is an explicit-state model of the replication protocol of
// docs/protocol.md: it walks every order of events within stated bounds and
// looks for a read that breaks the promises. It imports nothing of ours; it is
// a second, smaller statement of the rules, to think with and to break.
//
// What it has: one block on up to four replicas; two gateways, one of them the
// coordinator; writes, reads and flushes of clients at both; views committed in
// order that nodes learn late; messages delivered late, again or never; killed
// processes, power losses of one node and of all, disks that fail; removals (right or wrong),
// registrations, backfill, promotions, appointments of another coordinator.
// There are no sessions between coordinator and target: the coordinator sends
// every write to acting and target replicas of its view and wants all their
// acknowledgements, and a target pulls its backfill.
//
// What it leaves out: a second block and partial writes, snapshots, min-copies,
// the running of a lease (a read just needs the newest token), restarted
// gateways, and liveness. The ring wants every member.
//
// Every rule has a switch; the tests show that all rules together hold and that
// without any one of them the search finds a counterexample.
//
// Main types: Rule, Bounds, Report; Check does it all.
package model

import "strings"

// Rule is a set of rules of docs/protocol.md, whose numbers are in parentheses.
type Rule uint32

const (
	// Fence (1): a replica refuses requests of older views than its own.
	Fence Rule = 1 << iota
	// Incarnation (2, 12): a restarted replica is mute until a view lists its
	// new life, and that view takes it out of acting while another one lives.
	Incarnation
	// AckView (3): only acknowledgements of the coordinator's present view count.
	AckView
	// TargetAcks (3, 9): targets have to accept every write, too.
	TargetAcks
	// LastCopy (3, 12): a replica is removed only while another acting one is
	// known to live.
	LastCopy
	// Stamp (4): of overlapping writes a replica keeps the one stamped higher, in
	// whatever order they arrive.
	Stamp
	// ReadView (5): a replica answers a read only if it has the reader's view.
	ReadView
	// HoldReads (5): a value is returned only when its write is committed.
	HoldReads
	// Lease (6): only the coordinator of the newest token reads.
	Lease
	// Promise (7): a replica that is asked to seal adopts the view first.
	Promise
	// Reconcile (7): a new coordinator makes the acting replicas equal first.
	Reconcile
	// Overwrite (8): a replica that does not act distrusts what it has.
	Overwrite
	// BackfillView (9): a target reads from a replica that has adopted the same
	// view, and a newer view voids what it read.
	BackfillView
	// DurableBackfill (9): backfill is durable before promotion, and targets
	// take part in flushes.
	DurableBackfill
	// PromoteGuard (9): a promotion is refused if the view moved.
	PromoteGuard
	// Origin (10): retries of an applied write are found and not applied again.
	Origin
	// FlushAll (11): a flush is complete when all writers are durable.
	FlushAll
	// Demote (12): a replica that lost its disk knows it, and stops acting where
	// another acting one lives. Until then it does not flush, and as a takeover ends
	// with a flush, none ends that asked it.
	Demote
	ruleEnd
)

// AllRules is the protocol as it is meant.
const AllRules = ruleEnd - 1

var ruleNames = [...]string{
	"Fence", "Incarnation", "AckView", "TargetAcks", "LastCopy", "Stamp", "ReadView", "HoldReads", "Lease",
	"Promise", "Reconcile", "Overwrite", "BackfillView", "DurableBackfill", "PromoteGuard", "Origin", "FlushAll", "Demote",
}

func (r Rule) String() string {
	var names []string
	for i, name := range ruleNames {
		if r&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// Sizes of the model's arrays; Bounds must stay within them.
const (
	maxReplicas = 4
	maxViews    = 7
	maxWrites   = 3
	gateways    = 2
)

// Bounds limit the search: how often each kind of event may happen.
type Bounds struct {
	Replicas     int // of which the first Acting act in view 1
	Acting       int
	Views        int
	Writes       int
	Reads        int
	Flushes      int
	Kills        int // processes that die; what they accepted survives
	PowerLosses  int // of one node; what it did not flush is gone
	Blackouts    int // power losses of all nodes at once
	DiskLosses   int // of one node that goes on; what it held is gone
	Appointments int // of another coordinator
	Removals     int // of a replica, dead or alive
	Promotions   int
	States       int // give up after so many
	// Symmetry treats replicas as interchangeable: fewer states, but the names in
	// a trace do not stay the same from step to step.
	Symmetry bool
}
