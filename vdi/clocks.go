package vdi

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// The wall clock of a node may be wrong, by years after a battery died. It makes dates
// for people, but what is deleted for its age must not go by the clock of one node: of
// the one that deletes a VDI, whose time in the trash would be over at once, or of the
// leader, who would take all for old. Both ask all members.

// now is the wall clock of this node.
func (m *Manager) now() time.Time { return m.opt.Now() }

// methodTime asks a member what its wall clock shows.
const methodTime = "vdi.time"

// clockTimeout bounds the wait for members that do not answer; agreed clocks are
// enough without them.
const (
	clockTimeout = 500 * time.Millisecond
	clocksAgree  = time.Second // a clock that is set by NTP is nearer than that
)

// clocks are what the clocks of those members showed that answered, in order, and the
// number of all members. It waits for all members, but not once most agree: who is
// late could change little then.
func (m *Manager) clocks(ctx context.Context) (shown []time.Time, members int) {
	shown = []time.Time{m.now()}
	v := m.opt.Cluster.View()
	if v == nil {
		return shown, 1
	}
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	answers := make(chan time.Time, len(v.Members)) // zero: none
	left := 0
	for _, member := range v.Members {
		if member.ID == m.opt.Self {
			continue
		}
		left++
		asked.Go(func() {
			var at time.Time
			if reply, err := m.opt.Peers.Call(ctx, member, methodTime, nil); err != nil || json.Unmarshal(reply, &at) != nil {
				at = time.Time{}
			}
			answers <- at
		})
	}
	for ; left > 0 && !agree(shown, most(len(v.Members))); left-- {
		if at := <-answers; !at.IsZero() {
			shown = append(shown, at)
			slices.SortFunc(shown, time.Time.Compare)
		}
	}
	return shown, len(v.Members)
}

// agree reports whether so many of the clocks, which are in order, show the same.
func agree(shown []time.Time, enough int) bool {
	for i := enough - 1; i < len(shown); i++ {
		if shown[i].Sub(shown[i-enough+1]) <= clocksAgree {
			return true
		}
	}
	return false
}

func most(members int) int { return members/2 + 1 }

// reached is the latest time that most clocks have reached; not ok if fewer answered.
func reached(shown []time.Time, members int) (at time.Time, ok bool) {
	if len(shown) < most(members) {
		return time.Time{}, false
	}
	return shown[len(shown)-most(members)], true
}

// deletedAt is the earliest time that most clocks have not passed, as far as they
// answered: what is kept from then on for some time is not kept for less.
func deletedAt(shown []time.Time, members int) time.Time {
	return shown[min(most(members), len(shown))-1]
}
