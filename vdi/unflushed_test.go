package vdi

import (
	"errors"
	"testing"

	"sheepdog"
)

// What a failed flush did not cover is judged by the next one, by the oldest
// write.
func TestUnflushedOutlivesAFailedFlush(t *testing.T) {
	var u unflushed
	at := func(r sheepdog.Revision) *sheepdog.View { return &sheepdog.View{Revision: r} }
	u.note(at(3), 1)
	u.note(at(5), 1)
	broken := errors.New("broken")
	err := u.flush(func() error { u.note(at(6), 1); u.note(at(7), 2); return broken }, nil)
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	var judged map[sheepdog.Partition]sheepdog.Revision
	judge := func(since map[sheepdog.Partition]sheepdog.Revision) bool { judged = since; return true }
	if err := u.flush(func() error { return nil }, judge); err != nil {
		t.Fatal(err)
	}
	if len(judged) != 2 || judged[1] != 3 || judged[2] != 7 || u.losses.Load() != 1 {
		t.Errorf("judged %v, %d losses", judged, u.losses.Load())
	}
	judged = nil
	if err := u.flush(func() error { return nil }, judge); err != nil || judged != nil {
		t.Errorf("a flush of nothing judged %v (%v)", judged, err)
	}
}

func TestGone(t *testing.T) {
	policy := sheepdog.Policy{Copies: 3}
	v := &sheepdog.View{Revision: 9, Tables: map[sheepdog.Policy]sheepdog.Table{policy: {{Lost: 4}, {}}}}
	for _, c := range []struct {
		part  sheepdog.Partition
		since sheepdog.Revision
		want  bool
	}{{0, 3, true}, {0, 4, false}, {0, 9, false}, {1, 1, false}, {77, 1, false}} {
		if got := gone(v, policy, map[sheepdog.Partition]sheepdog.Revision{c.part: c.since}); got != c.want {
			t.Errorf("partition %d since %d: %v", c.part, c.since, got)
		}
	}
}
