package sheepdog

import "testing"

func TestAProcessEndsOnlyWithTheNextOfItsNode(t *testing.T) {
	view := func(r Revision, members ...Member) *View { return &View{Revision: r, Members: members} }
	one, two, again := Member{ID: 1, Incarnation: 10}, Member{ID: 2, Incarnation: 20}, Member{ID: 2, Incarnation: 21}
	var l Lives
	for _, c := range []struct {
		see   *View
		ended map[Incarnation]bool
	}{
		{view(1, one, two), map[Incarnation]bool{10: false, 20: false, 99: false}},
		{view(2, one), map[Incarnation]bool{20: false}}, // cut off, or dead
		{view(3, one, two), map[Incarnation]bool{20: false}},
		{view(4, one, again), map[Incarnation]bool{10: false, 20: true, 21: false}},
		{view(3, one, two), map[Incarnation]bool{20: true, 21: false}}, // late
		{view(5, one), map[Incarnation]bool{20: true, 21: false}},
	} {
		l.See(c.see)
		for i, want := range c.ended {
			if got := l.Ended(i); got != want {
				t.Errorf("revision %d: %d ended is %v, want %v", c.see.Revision, i, got, want)
			}
		}
	}
}
