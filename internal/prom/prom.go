// Package prom writes metrics in the text exposition format of Prometheus, version
// 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats). It holds no
// values and registers nothing: whoever has values writes them when he is asked.
//
// The main type is Writer.
package prom

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Label is one name and value of a sample. The name must be [a-zA-Z_][a-zA-Z0-9_]*.
type Label struct{ Name, Value string }

// Writer collects metrics. The zero value is empty. Families must be written once each,
// with all their samples.
type Writer struct {
	out  []byte
	name string // of the family that samples belong to
}

// Bytes is what was written.
func (w *Writer) Bytes() []byte { return w.out }

// Counter begins a family of values that only grow while a process lives. Its name ends
// with _total.
func (w *Writer) Counter(name, help string) *Writer { return w.family(name, "counter", help) }

// Gauge begins a family of values that come and go.
func (w *Writer) Gauge(name, help string) *Writer { return w.family(name, "gauge", help) }

// Histogram begins a family of Distributions.
func (w *Writer) Histogram(name, help string) *Writer { return w.family(name, "histogram", help) }

func (w *Writer) family(name, kind, help string) *Writer {
	w.name = name
	w.out = append(w.out, "# HELP "...)
	w.out = append(w.out, name...)
	w.out = append(w.out, ' ')
	w.out = append(w.out, helpEscapes.Replace(help)...)
	w.out = append(w.out, "\n# TYPE "...)
	w.out = append(w.out, name...)
	w.out = append(w.out, ' ')
	w.out = append(w.out, kind...)
	w.out = append(w.out, '\n')
	return w
}

// Value writes a sample of the family.
func (w *Writer) Value(v float64, labels ...Label) { w.sample("", v, labels) }

// Bool is Value of 1 or 0.
func (w *Writer) Bool(v bool, labels ...Label) {
	n := 0.0
	if v {
		n = 1
	}
	w.sample("", n, labels)
}

// Time is Value of a date, in seconds since 1970; 0 for the zero time.
func (w *Writer) Time(t time.Time) {
	n := 0.0
	if !t.IsZero() {
		n = float64(t.UnixMilli()) / 1000
	}
	w.sample("", n, nil)
}

// Distribution is what a histogram counted: Counts[i] values up to Bounds[i], ascending, and
// above the bound before; the last of Counts, one more than Bounds, has what is above all.
type Distribution struct {
	Bounds []float64
	Counts []uint64
	Sum    float64
}

// Distribution writes one of a family of histograms.
func (w *Writer) Distribution(d Distribution, labels ...Label) {
	within := append(labels[:len(labels):len(labels)], Label{Name: "le"})
	le := &within[len(labels)].Value
	n := uint64(0)
	for i, count := range d.Counts {
		n += count
		*le = "+Inf"
		if i < len(d.Bounds) {
			*le = number(d.Bounds[i])
		}
		w.sample("_bucket", float64(n), within)
	}
	w.sample("_sum", d.Sum, labels)
	w.sample("_count", float64(n), labels)
}

func (w *Writer) sample(suffix string, v float64, labels []Label) {
	w.out = append(w.out, w.name...)
	w.out = append(w.out, suffix...)
	for i, l := range labels {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		w.out = append(w.out, sep)
		w.out = append(w.out, l.Name...)
		w.out = append(w.out, '=', '"')
		w.out = append(w.out, valueEscapes.Replace(l.Value)...)
		w.out = append(w.out, '"')
	}
	if len(labels) > 0 {
		w.out = append(w.out, '}')
	}
	w.out = append(w.out, ' ')
	w.out = append(w.out, number(v)...)
	w.out = append(w.out, '\n')
}

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// number is a value as Prometheus reads it.
func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case math.IsNaN(v):
		return "NaN"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
