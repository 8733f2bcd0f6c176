// Package report tells of the steps of a story while it is played, and prints one table
// of what took how long and what was verified.
//
// Main types: Report, Row.
package report

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Report is what was done, how long it took, and what proved it.
type Report struct {
	Out  io.Writer // progress
	rows []Row
}

// Row is one line of the table. Took is that of the action, without the time
// that it took to verify it.
type Row struct {
	What     string
	Took     time.Duration
	Verified string
}

// Add puts one more figure under the step that is running.
func (r *Report) Add(what string, took time.Duration, verified string) {
	r.rows = append(r.rows, Row{"  " + what, took, verified})
}

// Step runs one step and times it. The step may set Took to the time of the
// action alone; Verified says what it checked.
func (r *Report) Step(what string, do func(s *Row) error) error {
	fmt.Fprintf(r.Out, "%s ... ", what)
	at := len(r.rows)
	r.rows = append(r.rows, Row{What: what})
	s := Row{What: what}
	begin := time.Now()
	err := do(&s)
	if s.Took == 0 {
		s.Took = time.Since(begin)
	}
	r.rows[at] = s
	if err != nil {
		fmt.Fprintln(r.Out, "FAILED")
		return fmt.Errorf("step %q: %w", what, err)
	}
	fmt.Fprintf(r.Out, "%s\n", human(s.Took))
	return nil
}

// Print writes the table.
func (r *Report) Print(w io.Writer) {
	wide := 0
	for _, s := range r.rows {
		wide = max(wide, utf8.RuneCountInString(s.What))
	}
	rule := strings.Repeat("-", wide)
	fmt.Fprintf(w, "\n%-*s  %10s  %s\n%s  ----------  --------\n", wide, "What", "Took", "Verified", rule)
	for _, s := range r.rows {
		fmt.Fprintf(w, "%-*s  %10s  %s\n", wide, s.What, human(s.Took), s.Verified)
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
