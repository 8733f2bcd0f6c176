package sheepdog

import "testing"

// Bug: in a cluster with min-copies 3 a VDI of 2 copies could never be written: its
// guests waited for ever. (Found by internal/sim/world.)
func TestMinCopiesAreAtMostTheCopies(t *testing.T) {
	v := &View{Config: Config{MinCopies: 3}}
	for id := range NodeID(5) {
		v.Members = append(v.Members, Member{ID: id + 1, Zone: Zone(id), VNodes: 128})
	}
	for copies, want := range map[uint8]int{1: 1, 2: 2, 3: 3, 4: 3} {
		if got := v.MinCopies(Policy{Copies: copies}); got != want {
			t.Errorf("%d copies: a write needs %d, want %d", copies, got, want)
		}
	}
}
