package recovery

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
)

// Runs that end together share a commit, and each learns what was refused. With a
// commit for each, a cluster of 46 nodes on one machine did nothing but follow them.
func TestPromotionsShareCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var commits []Move
		var wg sync.WaitGroup
		q := &promotions{ctx: t.Context(), spawn: func(f func()) { wg.Go(f) }, commit: func(_ context.Context, m *Move) ([]sheepdog.Partition, error) {
			commits = append(commits, *m)
			time.Sleep(time.Second)
			if m.Policy.Copies == 2 {
				return nil, sheepdog.ErrNoQuorum
			}
			return []sheepdog.Partition{7}, nil
		}}
		ask := func(copies uint8, p sheepdog.Partition) {
			wg.Go(func() {
				m := &Move{Policy: sheepdog.Policy{Copies: copies}, Items: []Item{{Partition: p, Since: 3}}}
				refused, err := q.promote(t.Context(), m)
				if failed := errors.Is(err, sheepdog.ErrNoQuorum); failed != (copies == 2) {
					t.Errorf("partition %d with %d copies: %v", p, copies, err)
				}
				if copies == 3 && !slices.Equal(refused, []sheepdog.Partition{7}) {
					t.Errorf("partition %d: refused %v", p, refused)
				}
			})
		}
		for p := range sheepdog.Partition(9) {
			ask(3, p)
		}
		time.Sleep(time.Millisecond)
		for p := range sheepdog.Partition(9) {
			ask(2, 100+p)
		}
		time.Sleep(500 * time.Millisecond) // the first commit is under way
		ask(3, 50)
		ask(3, 51)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.promote(gone, &Move{Policy: sheepdog.Policy{Copies: 3}, Items: []Item{{Partition: 60}}}); !errors.Is(err, context.Canceled) {
			t.Errorf("promotion whose run was cancelled: %v", err)
		}
		wg.Wait()
		var items []int
		for _, m := range commits {
			items = append(items, len(m.Items))
		}
		if !slices.Equal(items, []int{9, 9, 3}) {
			t.Errorf("commits of %v items, want 9, 9 and 3", items)
		}
	})
}
