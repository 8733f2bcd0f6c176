package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// middle is the median of some values with the smallest and the largest.
type middle struct{ median, least, most float64 }

func spread(values []float64) middle {
	if len(values) == 0 {
		return middle{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return middle{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

func pick[S any](samples []S, field func(S) float64) []float64 {
	var out []float64
	for _, s := range samples {
		out = append(out, field(s))
	}
	return out
}

// ratios divides the values of two systems, round by round.
func ratios(a, b []sample, field func(sample) float64) []float64 {
	var out []float64
	for _, x := range a {
		i := slices.IndexFunc(b, func(y sample) bool { return y.Round == x.Round })
		if i >= 0 && field(b[i]) > 0 {
			out = append(out, field(x)/field(b[i]))
		}
	}
	return out
}

func (s sample) rate() float64    { return s.PerSecond }
func (s sample) bytes() float64   { return s.MBs }
func (s sample) mean() float64    { return s.Mean }
func (s sample) p99() float64     { return s.P99 }
func (s sample) cpu() float64     { return s.CPU }
func (s sample) foreign() float64 { return s.Other }

// print writes the tables: rows of fio's jobs with all systems, then the times of
// control operations.
func (r *result) print(out io.Writer) {
	fmt.Fprintf(out, "commit %s, %s; %s\nMedians with (least-most) of the rounds. CPU: user and system time of all processes of a system per operation.\n",
		r.Commit, r.When.Format("2006-01-02 15:04"), r.Machine)
	fmt.Fprintf(out, "Ratios: sheep, 3 copies, to the other (Ceph and another build: 3 copies, the rest: 1), of the same round. other: share of the machine used by neither.\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	for _, row := range r.Rows {
		if s := r.Samples[row]["sheep"]; len(s) > 0 && s[0].PerSecond == 0 {
			continue
		}
		r.printJob(w, row)
	}
	w.Flush()
	r.printControls(w)
}

func (r *result) printJob(w io.Writer, row string) {
	if row == r.Rows[0] {
		fmt.Fprintln(w, strings.Join([]string{"job", "system", "rate", "", "mean us", "p99 us", "CPU us", "other %", "sheep to it: rate", "CPU", ""}, "\t"))
	}
	own := r.Samples[row]["sheep"]
	for i, system := range r.Systems {
		s := r.Samples[row][system]
		if len(s) == 0 {
			continue
		}
		label, ratio, cpu := row, "", ""
		if i > 0 {
			label = ""
		}
		if system != "sheep" && len(own) > 0 {
			ratio = two(spread(ratios(own, s, sample.rate)))
			cpu = fmt.Sprintf("%.2f", spread(ratios(own, s, sample.cpu)).median)
		}
		rate, unit := whole(spread(pick(s, sample.rate))), "/s"
		if strings.Contains(row, "1m") {
			rate, unit = whole(spread(pick(s, sample.bytes))), "MB/s"
		}
		p99 := ""
		if m := spread(pick(s, sample.p99)); m.median > 0 { // qemu-img does not tell
			p99 = fmt.Sprintf("%.0f", m.median)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t%.0f\t%s\t%s\t\n", label, system, rate, unit, spread(pick(s, sample.mean)).median,
			p99, one(spread(pick(s, sample.cpu))), 100*spread(pick(s, sample.foreign)).median, ratio, cpu)
	}
}

func (r *result) printControls(w io.Writer) {
	fmt.Fprintln(w)
	for _, row := range r.Rows {
		if s := r.Samples[row]["sheep"]; len(s) == 0 || s[0].PerSecond != 0 {
			continue
		}
		for _, system := range r.Systems {
			if s := r.Samples[row][system]; len(s) > 0 {
				m := spread(pick(s, sample.mean))
				fmt.Fprintf(w, "%s\t%s\t%.2f (%.2f-%.2f)\tms\t\n", row, system, m.median/1e3, m.least/1e3, m.most/1e3)
			}
		}
	}
}

func whole(m middle) string { return fmt.Sprintf("%.0f (%.0f-%.0f)", m.median, m.least, m.most) }
func one(m middle) string   { return fmt.Sprintf("%.1f (%.1f-%.1f)", m.median, m.least, m.most) }
func two(m middle) string   { return fmt.Sprintf("%.2f (%.2f-%.2f)", m.median, m.least, m.most) }
