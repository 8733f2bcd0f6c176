package cluster

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
)

// maxVoters bounds how many nodes vote: five survive the loss of two.
const maxVoters = 5

// server is one node as the choice of voters sees it.
type server struct {
	ID     sheepdog.NodeID
	Addr   string // as Raft has it
	Voter  bool   // Raft has it as voter
	Member bool   // it is in the view
	Alive  bool   // and gossip has it alive and, unless it votes, in this cluster
	Want   string // its address in the view
	Zone   sheepdog.Zone
	Listed bool // Raft has it at all
}

// voterStep is one change of Raft's configuration.
type voterStep struct {
	Kind stepKind
	ID   sheepdog.NodeID
	Addr string // for admit and promote
}

type stepKind string

const (
	stepNone    stepKind = ""
	stepAdmit   stepKind = "admit"   // add without vote, or correct the address
	stepPromote stepKind = "promote" // give the vote
	stepDemote  stepKind = "demote"  // take the vote
	stepRemove  stepKind = "remove"  // forget
)

// wantedVoters is how many of n nodes vote: an odd number up to five, because
// an even one needs one vote more for the same safety; but both of two, so that
// the log is on two disks.
func wantedVoters(n int) int {
	switch {
	case n >= maxVoters:
		return maxVoters
	case n >= 3:
		return 3
	}
	return n
}

// nextStep is the next of the changes that bring Raft's configuration to what
// it should be. It is a pure function; leader is never demoted.
//
// A voter that died keeps its vote until somebody can take it over: with the
// vote it helps to a quorum again when it returns, and the removal of one asks for
// as many of the others as before. That of two asks for one less. It is removed before the
// other one is promoted: that asks no more of those that live than they do already
// (of 3 voters with one dead both others are needed, and of 2 as well), while a vote
// more would ask for the new one, too, which may have fallen silent.
func nextStep(servers []server, leader sheepdog.NodeID) voterStep {
	servers = slices.Clone(servers)
	slices.SortFunc(servers, func(a, b server) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range servers {
		switch {
		case s.Member && (!s.Listed || s.Addr != s.Want):
			return voterStep{stepAdmit, s.ID, s.Want}
		case s.Listed && !s.Member && !s.Voter:
			return voterStep{Kind: stepRemove, ID: s.ID}
		}
	}
	v := countVoters(servers, leader)
	switch {
	case v.voters > v.want:
		return v.demotion()
	case v.candidate == nil && v.died < 2:
		return voterStep{}
	case v.dead != nil && v.mayShrink():
		return voterStep{Kind: stepRemove, ID: v.dead.ID}
	case v.candidate != nil && v.dead == nil && (v.voters < v.want || v.better()) && v.mayGrow():
		return voterStep{stepPromote, v.candidate.ID, v.candidate.Want}
	}
	return voterStep{}
}

// ballot is who votes and who could.
type ballot struct {
	voters, want int
	alive        int                   // voters that gossip has alive
	perZone      map[sheepdog.Zone]int // live voters
	dead         *server               // a voter that is no member
	died         int                   // how many of those there are
	candidate    *server               // the best live member without a vote
	surplus      *server               // the member that could best be spared as a voter
}

func countVoters(servers []server, leader sheepdog.NodeID) ballot {
	b := ballot{perZone: make(map[sheepdog.Zone]int)}
	nodes := 0
	for i := range servers {
		s := &servers[i]
		if s.Member || s.Voter {
			nodes++
		}
		if s.Voter {
			b.voters++
			if s.Member && s.Alive {
				b.alive++
			}
			if s.Member {
				b.perZone[s.Zone]++
			} else {
				b.dead, b.died = s, b.died+1
			}
		}
	}
	b.want = wantedVoters(nodes)
	for i := range servers {
		s := &servers[i]
		if s.Member && s.Alive && !s.Voter && (b.candidate == nil || b.perZone[s.Zone] < b.perZone[b.candidate.Zone]) {
			b.candidate = s
		}
		if s.Voter && s.Member && s.ID != leader && b.rathers(s) {
			b.surplus = s
		}
	}
	return b
}

// rathers reports whether a voter could be spared rather than the surplus so far: who
// is silent first, for the majority needs the others.
func (b *ballot) rathers(s *server) bool {
	if b.surplus == nil || s.Alive != b.surplus.Alive {
		return b.surplus == nil || b.surplus.Alive
	}
	return b.perZone[s.Zone] >= b.perZone[b.surplus.Zone]
}

// mayGrow reports whether a vote more leaves those that vote now, as far as they are
// alive, a majority without the new one. Of a single voter it cannot.
func (b *ballot) mayGrow() bool { return b.voters == 1 || b.alive >= majority(b.voters+1) }

// mayShrink reports whether those that live are a majority of one vote less. If they are
// not, one that is no member any more still lives, and leaves: see leaveStep.
func (b *ballot) mayShrink() bool { return b.alive >= majority(b.voters-1) }

func majority(voters int) int { return voters/2 + 1 }

// better reports whether the candidate would bring a zone without a vote while
// another zone has two.
func (b *ballot) better() bool {
	return b.surplus != nil && b.perZone[b.candidate.Zone] == 0 && b.perZone[b.surplus.Zone] > 1
}

func (b *ballot) demotion() voterStep {
	switch {
	case b.dead != nil && b.mayShrink():
		return voterStep{Kind: stepRemove, ID: b.dead.ID}
	case b.dead != nil:
		return voterStep{}
	case b.surplus != nil:
		return voterStep{Kind: stepDemote, ID: b.surplus.ID}
	}
	return voterStep{}
}

// reconcileVoters takes steps until there are none left.
func (c *Cluster) reconcileVoters(view *sheepdog.View) {
	cons, off := c.consensus.Load(), c.office.Load()
	if cons == nil || off == nil {
		return
	}
	for range 2 * state.MaxMembers {
		servers, err := c.serversNow(cons, view, off)
		if err != nil {
			return
		}
		step := nextStep(servers, c.opts.Self.ID)
		if step.Kind == stepRemove {
			c.askWhoLives(view, servers)
			step = nextStep(servers, c.opts.Self.ID)
		}
		if step.Kind == stepNone || c.ctx.Err() != nil {
			return
		}
		if err := cons.take(step); err != nil {
			c.opts.Logger.Info("raft configuration was not changed", "step", step.Kind, "node", step.ID, "err", err)
			return
		}
		c.opts.Logger.Info("raft configuration changed", "step", step.Kind, "node", step.ID)
	}
}

// askWhoLives asks the members instead of gossip, which hears of a death a second
// late: a change that needs the vote of one that has just died is never committed,
// and nothing can be changed any more.
func (c *Cluster) askWhoLives(view *sheepdog.View, servers []server) {
	lives := c.confirmAll(view, work{})
	for i := range servers {
		if m, ok := view.Member(servers[i].ID); ok && m.ID != c.opts.Self.ID {
			servers[i].Alive = lives[state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}]
		}
	}
}

// serversNow joins Raft's configuration with the view and gossip. Nodes that
// wait to join are left alone.
func (c *Cluster) serversNow(cons *consensus, view *sheepdog.View, off *office) ([]server, error) {
	listed, err := cons.servers()
	if err != nil {
		return nil, err
	}
	byID := make(map[sheepdog.NodeID]server, len(listed))
	for _, s := range listed {
		id, addr, err := splitRaftAddress(s.Address)
		if err != nil {
			return nil, err
		}
		byID[id] = server{ID: id, Addr: addr, Voter: s.Suffrage == raft.Voter, Listed: true}
	}
	for _, m := range view.Members {
		s := byID[m.ID]
		g, known := c.gossip.member(state.MemberRef{ID: m.ID, Incarnation: m.Incarnation})
		s.ID, s.Member, s.Want, s.Zone = m.ID, true, m.Addr, m.Zone
		// What gossip tells of its cluster may be seconds old; of a voter it is certain.
		s.Alive = m.ID == c.opts.Self.ID || known && g.State == GossipAlive && (s.Voter || g.Cluster == view.Cluster)
		byID[m.ID] = s
	}
	out := make([]server, 0, len(byID))
	for id, s := range byID {
		if !s.Member && off.pending.waits(id) {
			continue
		}
		out = append(out, s)
	}
	return out, nil
}

// take makes one change of the configuration and waits until it is committed.
func (c *consensus) take(step voterStep) error {
	id := raft.ServerID(step.ID.String())
	switch step.Kind {
	case stepAdmit:
		return c.admit(step.ID, step.Addr)
	case stepPromote:
		return c.raft.AddVoter(id, raftAddress(step.ID, step.Addr), 0, applyTimeout).Error()
	case stepDemote:
		return c.raft.DemoteVoter(id, 0, applyTimeout).Error()
	case stepRemove:
		return c.raft.RemoveServer(id, 0, applyTimeout).Error()
	}
	return fmt.Errorf("no such step: %q", step.Kind)
}
