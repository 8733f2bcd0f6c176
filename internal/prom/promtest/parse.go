// Package promtest reads the text exposition format of Prometheus strictly, for tests of
// what writes it. It refuses what a scrape might forgive: families that come twice, samples
// outside their family, a missing HELP or TYPE, counters without _total, histograms whose
// buckets do not add up.
package promtest

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Family is a metric with all its samples.
type Family struct {
	Name, Help, Type string
	Samples          []Sample
}

// Sample is one line.
type Sample struct {
	Name   string // that of the family; of a histogram with _bucket, _sum or _count
	Labels map[string]string
	Value  float64
}

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

// Parse reads a whole exposition.
func Parse(text string) ([]Family, error) {
	if text != "" && !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line has no end")
	}
	p := parser{names: make(map[string]bool), series: make(map[string]bool)}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if err := p.line(strings.TrimSuffix(line, "\n")); err != nil {
			return nil, fmt.Errorf("line %d, %q: %w", n, line, err)
		}
	}
	for i := range p.out {
		if err := p.out[i].check(); err != nil {
			return nil, fmt.Errorf("%s: %w", p.out[i].Name, err)
		}
	}
	return p.out, nil
}

type parser struct {
	out    []Family
	names  map[string]bool
	series map[string]bool
}

func (p *parser) line(line string) error {
	if help, ok := strings.CutPrefix(line, "# HELP "); ok {
		name, text, ok := strings.Cut(help, " ")
		if !ok || text == "" || !metricName.MatchString(name) || p.names[name] {
			return fmt.Errorf("HELP of a family that was there, or without a name or text")
		}
		p.names[name] = true
		p.out = append(p.out, Family{Name: name, Help: text})
		return nil
	}
	if len(p.out) == 0 {
		return fmt.Errorf("no family has begun")
	}
	f := &p.out[len(p.out)-1]
	if kind, ok := strings.CutPrefix(line, "# TYPE "); ok {
		name, kind, _ := strings.Cut(kind, " ")
		if name != f.Name || f.Type != "" || !slices.Contains([]string{"counter", "gauge", "histogram"}, kind) {
			return fmt.Errorf("TYPE of another family, a second one, or an unknown one")
		}
		f.Type = kind
		return nil
	}
	if f.Type == "" {
		return fmt.Errorf("a sample before the TYPE of its family")
	}
	s, err := parseSample(line)
	if err != nil {
		return err
	}
	if suffix, ok := strings.CutPrefix(s.Name, f.Name); !ok || (suffix != "") != (f.Type == "histogram") {
		return fmt.Errorf("a sample of another family")
	}
	key := s.key("")
	if p.series[key] {
		return fmt.Errorf("a series that was there")
	}
	p.series[key] = true
	f.Samples = append(f.Samples, s)
	return nil
}

// key names the series, without one of its labels.
func (s *Sample) key(without string) string {
	var b strings.Builder
	b.WriteString(s.Name)
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		if name != without {
			fmt.Fprintf(&b, ",%s=%q", name, s.Labels[name])
		}
	}
	return b.String()
}

func parseSample(line string) (s Sample, err error) {
	end := strings.IndexAny(line, "{ ")
	if end < 0 || !metricName.MatchString(line[:end]) {
		return s, fmt.Errorf("no name of a metric")
	}
	s.Name, s.Labels = line[:end], make(map[string]string)
	rest := line[end:]
	if rest[0] == '{' {
		if rest, err = s.parseLabels(rest[1:]); err != nil {
			return s, err
		}
	}
	text, ok := strings.CutPrefix(rest, " ")
	if !ok {
		return s, fmt.Errorf("no blank before the value")
	}
	if s.Value, err = strconv.ParseFloat(text, 64); err != nil {
		return s, fmt.Errorf("value %q", text)
	}
	return s, nil
}

// parseLabels reads what is between braces, and returns what is after them.
func (s *Sample) parseLabels(text string) (rest string, err error) {
	for {
		name, after, ok := strings.Cut(text, `="`)
		if !ok || !labelName.MatchString(name) {
			return "", fmt.Errorf("label %q", name)
		}
		if _, ok := s.Labels[name]; ok {
			return "", fmt.Errorf("label %s comes twice", name)
		}
		if s.Labels[name], text, err = unquote(after); err != nil {
			return "", err
		}
		if rest, ok = strings.CutPrefix(text, "}"); ok {
			return rest, nil
		}
		if text, ok = strings.CutPrefix(text, ","); !ok {
			return "", fmt.Errorf("neither a label nor the end of labels at %q", text)
		}
	}
}

// unquote reads a value up to the quote that ends it.
func unquote(text string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), text[i+1:], nil
		case '\\':
			i++
			if i == len(text) {
				return "", "", fmt.Errorf("an escape without an end")
			}
			c, ok := map[byte]byte{'\\': '\\', '"': '"', 'n': '\n'}[text[i]]
			if !ok {
				return "", "", fmt.Errorf("an unknown escape")
			}
			b.WriteByte(c)
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", fmt.Errorf("a value without an end")
}

// check looks at a whole family.
func (f *Family) check() error {
	if len(f.Samples) == 0 {
		return fmt.Errorf("no samples")
	}
	switch {
	case f.Type == "histogram":
		return f.checkHistogram()
	case (f.Type == "counter") != strings.HasSuffix(f.Name, "_total"):
		return fmt.Errorf("a counter ends with _total, and nothing else does")
	}
	for _, s := range f.Samples {
		if f.Type == "counter" && !(s.Value >= 0) {
			return fmt.Errorf("a counter is %v", s.Value)
		}
	}
	return nil
}

// checkHistogram: for each set of labels ascending buckets up to +Inf, a sum, and a count
// that is that of the last bucket.
func (f *Family) checkHistogram() error {
	for i := 0; i < len(f.Samples); {
		first := f.Samples[i].key("le")
		bound, n := math.Inf(-1), 0.0
		for ; i < len(f.Samples) && f.Samples[i].Name == f.Name+"_bucket" && f.Samples[i].key("le") == first; i++ {
			le, err := strconv.ParseFloat(f.Samples[i].Labels["le"], 64)
			if err != nil || le <= bound || f.Samples[i].Value < n {
				return fmt.Errorf("bucket %v after one of %v up to %v", f.Samples[i], n, bound)
			}
			bound, n = le, f.Samples[i].Value
		}
		if !math.IsInf(bound, 1) || i+2 > len(f.Samples) || f.Samples[i].Name != f.Name+"_sum" || f.Samples[i+1].Name != f.Name+"_count" || f.Samples[i+1].Value != n {
			return fmt.Errorf("buckets of %s without +Inf, a sum, or their count", first)
		}
		i += 2
	}
	return nil
}

// Find is the value of a series of the families, whose labels are given as name, value, ...;
// NaN if there is none.
func Find(families []Family, name string, labels ...string) float64 {
	want := Sample{Name: name, Labels: make(map[string]string)}
	for i := 0; i+1 < len(labels); i += 2 {
		want.Labels[labels[i]] = labels[i+1]
	}
	for _, f := range families {
		for _, s := range f.Samples {
			if s.key("") == want.key("") {
				return s.Value
			}
		}
	}
	return math.NaN()
}
