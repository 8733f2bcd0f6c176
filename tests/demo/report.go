package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// report is what was done, how long it took, and what proved it.
type report struct {
	out  io.Writer // progress
	rows []row
}

// row is one line of the table. took is that of the action, without the time
// that it took to verify it.
type row struct {
	what     string
	took     time.Duration
	verified string
}

// add puts one more figure under the step that is running.
func (r *report) add(what string, took time.Duration, verified string) {
	r.rows = append(r.rows, row{"  " + what, took, verified})
}

// step runs one step and times it. The step may set took to the time of the
// action alone; verified says what it checked.
func (r *report) step(what string, do func(s *row) error) error {
	fmt.Fprintf(r.out, "%s ... ", what)
	at := len(r.rows)
	r.rows = append(r.rows, row{what: what})
	s := row{what: what}
	begin := time.Now()
	err := do(&s)
	if s.took == 0 {
		s.took = time.Since(begin)
	}
	r.rows[at] = s
	if err != nil {
		fmt.Fprintln(r.out, "FAILED")
		return fmt.Errorf("step %q: %w", what, err)
	}
	fmt.Fprintf(r.out, "%s\n", human(s.took))
	return nil
}

// print writes the table.
func (r *report) print(w io.Writer) {
	wide := 0
	for _, s := range r.rows {
		wide = max(wide, utf8.RuneCountInString(s.what))
	}
	rule := strings.Repeat("-", wide)
	fmt.Fprintf(w, "\n%-*s  %10s  %s\n%s  ----------  --------\n", wide, "What", "Took", "Verified", rule)
	for _, s := range r.rows {
		fmt.Fprintf(w, "%-*s  %10s  %s\n", wide, s.what, human(s.took), s.verified)
	}
	fmt.Fprintln(w)
}

// human is a duration with a sensible number of digits.
func human(t time.Duration) string {
	if t < time.Second {
		return fmt.Sprintf("%d ms", t.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", t.Seconds())
}
