package report

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestReportTimesAndTables(t *testing.T) {
	var out strings.Builder
	r := &Report{Out: &out}
	err := r.Step("first", func(s *Row) error {
		s.Took, s.Verified = 1500*time.Millisecond, "all"
		r.Add("part", 12*time.Millisecond, "")
		return nil
	})
	bad := errors.New("bad")
	if failed := r.Step("second", func(*Row) error { return bad }); err != nil || !errors.Is(failed, bad) || !strings.Contains(failed.Error(), "second") {
		t.Errorf("%v, %v", err, failed)
	}
	out.Reset()
	r.Print(&out)
	if !strings.Contains(out.String(), "first        1.5 s  all\n  part       12 ms") {
		t.Errorf("table:\n%s", out.String())
	}
}
