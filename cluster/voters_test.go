package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"sheepdog"
)

// TestVoters runs scripts of the form
//
//	steps leader=1
//	1 zone=1 voter
//	2 zone=2 dead        (a member that gossip holds for dead)
//	3 zone=3 gone voter  (in Raft's configuration only)
//	4 zone=4 new         (not in Raft's configuration)
//
// and prints the steps until there are none left, and the voters then.
func TestVoters(t *testing.T) {
	datadriven.Walk(t, "testdata/voters", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var leader int
			d.ScanArgs(t, "leader", &leader)
			servers := parseServers(t, d.Input)
			var b strings.Builder
			for range 100 {
				step := nextStep(servers, sheepdog.NodeID(leader))
				if step.Kind == stepNone {
					break
				}
				fmt.Fprintf(&b, "%s %d\n", step.Kind, step.ID)
				servers = takeStep(servers, step)
			}
			fmt.Fprintf(&b, "voters %v\n", votersOf(servers))
			return b.String()
		})
	})
}

func parseServers(t *testing.T, input string) (out []server) {
	t.Helper()
	for line := range strings.Lines(input) {
		words := strings.Fields(line)
		id, err := strconv.Atoi(words[0])
		if err != nil {
			t.Fatal(err)
		}
		addr := fmt.Sprint("addr", id)
		s := server{ID: sheepdog.NodeID(id), Addr: addr, Want: addr, Member: true, Alive: true, Listed: true}
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "zone":
				z, _ := strconv.Atoi(value)
				s.Zone = sheepdog.Zone(z)
			case "voter":
				s.Voter = true
			case "dead":
				s.Alive = false
			case "gone":
				s.Member, s.Alive = false, false
			case "new":
				s.Listed, s.Addr = false, ""
			case "moved":
				s.Addr = "elsewhere"
			default:
				t.Fatalf("no such word: %s", word)
			}
		}
		out = append(out, s)
	}
	return out
}

func takeStep(servers []server, step voterStep) []server {
	out := slices.Clone(servers)
	for i := range out {
		s := &out[i]
		if s.ID != step.ID {
			continue
		}
		switch step.Kind {
		case stepAdmit:
			s.Listed, s.Addr = true, step.Addr
		case stepPromote:
			s.Voter = true
		case stepDemote:
			s.Voter = false
		case stepRemove:
			s.Listed, s.Voter = false, false
		}
	}
	return slices.DeleteFunc(out, func(s server) bool { return !s.Listed && !s.Member })
}

func votersOf(servers []server) (out []int) {
	for _, s := range servers {
		if s.Voter {
			out = append(out, int(s.ID))
		}
	}
	slices.Sort(out)
	return out
}

// checkMajority: a step that was begun with a majority of voters alive leaves them one,
// whatever becomes of a node that it gives a vote to. A single voter that gets company
// is the exception.
func checkMajority(t *rapid.T, servers []server, step voterStep) {
	voters, alive := 0, 0
	for _, s := range servers {
		if s.Voter {
			voters++
			if s.Alive {
				alive++
			}
		}
	}
	if alive < majority(voters) {
		return
	}
	switch s := servers[slices.IndexFunc(servers, func(s server) bool { return s.ID == step.ID })]; {
	case step.Kind == stepPromote && voters > 1:
		voters++
	case (step.Kind == stepDemote || step.Kind == stepRemove) && s.Voter:
		voters--
		if s.Alive {
			alive--
		}
	}
	if alive < majority(voters) {
		t.Fatalf("%+v of %+v: %d alive of then %d voters", step, servers, alive, voters)
	}
}

// TestVotersAlwaysSettle takes steps from arbitrary configurations: they end,
// the leader keeps its vote, and there are as many voters as wanted wherever
// enough nodes live.
func TestVotersAlwaysSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var servers []server
		nodes := rapid.IntRange(1, 12).Draw(t, "nodes")
		for id := 1; id <= nodes; id++ {
			s := server{
				ID: sheepdog.NodeID(id), Addr: "a", Want: "a", Zone: sheepdog.Zone(rapid.IntRange(1, 4).Draw(t, "zone")),
				Listed: rapid.Bool().Draw(t, "listed"), Member: rapid.Bool().Draw(t, "member"),
			}
			s.Voter = s.Listed && rapid.Bool().Draw(t, "voter")
			s.Alive = s.Member && rapid.Bool().Draw(t, "alive")
			if id == 1 {
				s.Listed, s.Member, s.Voter, s.Alive = true, true, true, true
			}
			servers = append(servers, s)
		}
		for n := 0; ; n++ {
			step := nextStep(servers, 1)
			if step.Kind == stepNone {
				break
			}
			if n > 100 {
				t.Fatalf("no end: %+v", servers)
			}
			checkMajority(t, servers, step)
			servers = takeStep(servers, step)
			if !slices.Contains(votersOf(servers), 1) {
				t.Fatalf("the leader lost its vote by %+v", step)
			}
		}
		b := countVoters(servers, 1)
		if b.dead != nil && !b.mayShrink() {
			return // whoever leaves is waited for
		}
		if b.voters > b.want || b.voters < b.want && b.candidate != nil && b.mayGrow() {
			t.Fatalf("%d voters, %d wanted: %+v", b.voters, b.want, servers)
		}
		if b.dead != nil && b.candidate != nil {
			t.Fatalf("%+v keeps a vote that %+v could have", *b.dead, *b.candidate)
		}
	})
}

func TestLeaveStep(t *testing.T) {
	voter := func(id sheepdog.NodeID, member, alive bool) server {
		return server{ID: id, Listed: true, Voter: true, Member: member, Alive: alive}
	}
	for _, tt := range []struct {
		name    string
		servers []server // 1 leads, the last one leaves, and is no member any more
		want    voterStep
	}{
		{"of two", []server{voter(1, true, true), voter(2, false, false)}, voterStep{Kind: stepRemove, ID: 2}},
		{"of three", []server{voter(1, true, true), voter(2, true, true), voter(3, false, false)}, voterStep{Kind: stepRemove, ID: 3}},
		{"one is dead", []server{voter(1, true, true), voter(2, false, false), voter(3, false, false)}, voterStep{Kind: stepRemove, ID: 2}},
		{"one is silent", []server{voter(1, true, true), voter(2, true, false), voter(3, false, false)}, voterStep{}},
		{"of five, one is dead", []server{voter(1, true, true), voter(2, false, false), voter(3, true, true), voter(4, true, true), voter(5, false, false)}, voterStep{Kind: stepRemove, ID: 5}},
		{"of five, two are dead", []server{voter(1, true, true), voter(2, false, false), voter(3, false, false), voter(4, true, true), voter(5, false, false)}, voterStep{Kind: stepRemove, ID: 3}},
		{"it has no vote", []server{voter(1, true, true), voter(2, false, false), {ID: 3, Listed: true}}, voterStep{Kind: stepRemove, ID: 3}},
	} {
		if got := leaveStep(tt.servers, tt.servers[len(tt.servers)-1].ID); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
