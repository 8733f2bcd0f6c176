package vdi

import (
	"context"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Of three clocks one is years ahead or years behind. Nothing expires by it alone, be
// it the leader's or that of the node that deletes; and all expires in its time,
// also while one of the others does not answer.
func TestClockOfOneNodeExpiresNothing(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, wrong := range []time.Duration{10 * year, -10 * year} {
		for _, cut := range []sheepdog.NodeID{0, 2, 3} {
			w := newWorld()
			now := time.Now()
			ahead := map[sheepdog.NodeID]time.Duration{1: wrong}
			for id := sheepdog.NodeID(1); id <= 3; id++ {
				w.manager(t, id).opt.Now = func() time.Time { return now.Add(ahead[id]) }
			}
			w.cut[cut] = true
			a, c := w.managers[1], w.managers[3]
			if err := a.SetTrash(t.Context(), time.Hour); err != nil {
				t.Fatal(err)
			}
			create(t, a, "v", 1<<20)
			create(t, a, "w", 1<<20)
			if _, err := c.Snapshot(t.Context(), directory.Snapshot{Name: "w", Tag: "s", Expires: now.Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			if err := a.Delete(t.Context(), directory.Delete{Name: "v"}); err != nil {
				t.Fatal(err)
			}
			expire := func(want int) {
				t.Helper()
				for id := sheepdog.NodeID(1); id <= 3; id++ {
					if err := w.managers[id].Expire(t.Context(), false); err != nil {
						t.Fatal(err)
					}
				}
				_, err := w.dir.LookupSnapshot("w", "s")
				if n := len(w.dir.Trash()); n != want || (err == nil) != (want == 1) {
					t.Errorf("clock %v ahead, node %d silent, after %v: %d in the trash, snapshot: %v", wrong, cut, time.Since(now).Round(time.Hour), n, err)
				}
			}
			expire(1)
			now = now.Add(59 * time.Minute)
			expire(1)
			if cut != 0 {
				delete(w.cut, cut)
			}
			now = now.Add(2 * time.Minute)
			if wrong > 0 && cut != 0 {
				continue // it was deleted by two clocks, one of them ahead: kept for longer
			}
			expire(0)
		}
	}
}

// mutePeers has one node that does not answer, and notes what ended the wait for it.
type mutePeers struct {
	Peers
	mute  sheepdog.NodeID
	ended chan error
}

func (p mutePeers) Call(ctx context.Context, to sheepdog.Member, method string, body []byte) ([]byte, error) {
	if to.ID != p.mute {
		return p.Peers.Call(ctx, to, method, body)
	}
	<-ctx.Done()
	p.ended <- ctx.Err()
	return nil, ctx.Err()
}

// A move into the trash waited half a second for a member that is silent. It is of no
// interest while the clocks of most members agree, and needed if they do not.
func TestSilentMemberIsNotWaitedForWhenClocksAgree(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		want  error
	}{
		{0, context.Canceled},
		{time.Hour, context.DeadlineExceeded},
	} {
		w := newWorld()
		for id := sheepdog.NodeID(1); id <= 3; id++ {
			w.manager(t, id)
		}
		w.managers[2].opt.Now = func() time.Time { return time.Now().Add(c.ahead) }
		m, ended := w.managers[1], make(chan error, 1)
		m.opt.Peers = mutePeers{m.opt.Peers, 3, ended}
		if shown, members := m.clocks(t.Context()); len(shown) != 2 || members != 3 {
			t.Errorf("%v ahead: %v of %d", c.ahead, shown, members)
		}
		if err := <-ended; err != c.want {
			t.Errorf("%v ahead: the wait ended with %v, want %v", c.ahead, err, c.want)
		}
	}
}

// Without most of the clocks nothing expires.
func TestNothingExpiresWithoutMostClocks(t *testing.T) {
	hour := func(n ...int) (out []time.Time) {
		for _, n := range n {
			out = append(out, time.Date(2030, 1, 1, n, 0, 0, 0, time.UTC))
		}
		return out
	}
	for _, c := range []struct {
		shown            []time.Time
		members          int
		reached, deleted int // -1: nothing
	}{
		{hour(5), 1, 5, 5},
		{hour(5), 2, -1, 5},
		{hour(5, 7), 2, 5, 7},
		{hour(5), 3, -1, 5},
		{hour(5, 7), 3, 5, 7},
		{hour(5, 7, 9), 3, 7, 7},
		{hour(5, 7, 9), 4, 5, 9},
		{hour(5, 7, 9, 11), 4, 7, 9},
		{hour(5, 7), 5, -1, 7},
		{hour(1, 5, 7, 9, 11), 5, 7, 7},
	} {
		at, ok := reached(c.shown, c.members)
		if ok != (c.reached >= 0) || ok && at.Hour() != c.reached {
			t.Errorf("%v of %d have reached %v, %v; want %d", c.shown, c.members, at, ok, c.reached)
		}
		if at := deletedAt(c.shown, c.members); at.Hour() != c.deleted {
			t.Errorf("%v of %d: deleted at %v, want %d", c.shown, c.members, at, c.deleted)
		}
	}
}
