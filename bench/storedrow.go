package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// storedSample is a sample, and what the whole machine but fio used for an operation, until
// the system had nothing left to do: the host brings what nbdkit has written to the disk in
// nobody's name, and some of it later, as a sheep does with what its log still has.
type storedSample struct {
	sample
	withDisk float64 // microseconds
}

func (s storedSample) machine() float64 { return s.withDisk }

// storedRow is what the jobs found on a disk of one size, by job and round.
type storedRow [len(storedJobs)][]storedSample

// storedTable begins the table of rows.
func storedTable(out io.Writer) *tabwriter.Writer {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "stored, one block in each object; full: each block\t\twrite CPU us\twith disk\twrites/s\tslowest ms\tread CPU us\twith disk\treads/s\tslowest ms\tmemory MiB\t")
	return w
}

// last is the row that is measured.
func (s *storedSystem) last() *storedRow { return &s.rows[len(s.rows)-1] }

// print tells the latest rows of both systems.
func (p *storedPair) print(w io.Writer) error {
	name := inWords(p.size)
	if p.align == storedBlock {
		name += ", full"
	}
	for _, sys := range p.systems {
		if err := sys.print(w, name); err != nil {
			return err
		}
	}
	return nil
}

// inWords is a size in the largest unit that it has a whole number of.
func inWords(bytes int64) string {
	if bytes%(1<<30) == 0 {
		return fmt.Sprintf("%d GiB", bytes>>30)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

// print is the latest row of a system: medians, with what they were taken of.
func (s *storedSystem) print(w io.Writer, name string) error {
	memory, err := s.memory()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\t%s", name, s.name)
	row := s.last()
	for i := range row {
		for _, c := range []struct {
			format string
			field  func(storedSample) float64
		}{
			{"%.1f", storedSample.cpu},
			{"%.1f", storedSample.machine},
			{"%.0f", storedSample.rate},
			{"%.1f", func(s storedSample) float64 { return s.Max / 1000 }},
		} {
			fmt.Fprint(w, "\t"+cell(c.format, pick(row[i], c.field)))
		}
	}
	_, err = fmt.Fprintf(w, "\t%d\t\n", memory>>20)
	return err
}

// cell is the median of values, with the least and the most where there are several.
func cell(format string, values []float64) string {
	m := spread(values)
	if len(values) == 1 {
		return fmt.Sprintf(format, m.median)
	}
	return fmt.Sprintf(format+" ("+format+"-"+format+")", m.median, m.least, m.most)
}

// growth is what operations of the last row cost in those of the first, and in those of the
// last row of another disk, with which it took turns.
func (s *storedSystem) growth(full *storedSystem) string {
	var out strings.Builder
	if len(s.rows) > 1 {
		fmt.Fprintf(&out, "%s, CPU of the last row in that of the first: %s\n", s.name, s.last().in(&s.rows[0]))
	}
	fmt.Fprintf(&out, "%s, CPU of the last row in that of the full disk, as many blocks: %s\n", s.name, s.last().in(full.last()))
	return out.String()
}

// in is what operations cost in those of another row, round by round where there are as many.
func (r *storedRow) in(other *storedRow) string {
	var out []string
	for i := range r {
		in := func(field func(storedSample) float64) string {
			return cell("%.2f", quotients(pick(r[i], field), pick(other[i], field)))
		}
		out = append(out, fmt.Sprintf("%s %s, with the disk %s", storedJobs[i].name, in(storedSample.cpu), in(storedSample.machine)))
	}
	return strings.Join(out, "; ")
}

// quotients are of values of the same round, or of each and the median of the others if they are
// not from the same rounds.
func quotients(values, of []float64) []float64 {
	var out []float64
	for i, v := range values {
		if len(of) == len(values) {
			out = append(out, v/of[i])
		} else {
			out = append(out, v/spread(of).median)
		}
	}
	return out
}
