package prom_test

import (
	"math"
	"strings"
	"testing"

	"sheepdog/internal/prom"
	"sheepdog/internal/prom/promtest"
)

func TestExposition(t *testing.T) {
	var w prom.Writer
	w.Gauge("build_info", "What runs, \\ and\nwhere.").Value(1, prom.Label{Name: "version", Value: "a \"b\" \\ c\nd"})
	f := w.Counter("requests_total", "Requests.")
	f.Value(12345678901, prom.Label{Name: "op", Value: "read"}, prom.Label{Name: "origin", Value: "peer"})
	f.Value(0.25, prom.Label{Name: "op", Value: "write"}, prom.Label{Name: "origin", Value: "peer"})
	w.Gauge("up", "Whether it is.").Bool(true)
	w.Gauge("odd", "Values that are no numbers.").Value(math.Inf(1))
	w.Histogram("duration_seconds", "Time.").Distribution(prom.Distribution{Bounds: []float64{0.001, 0.5}, Counts: []uint64{3, 0, 2}, Sum: 7.5}, prom.Label{Name: "op", Value: "read"})
	const want = `# HELP build_info What runs, \\ and\nwhere.
# TYPE build_info gauge
build_info{version="a \"b\" \\ c\nd"} 1
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{op="read",origin="peer"} 1.2345678901e+10
requests_total{op="write",origin="peer"} 0.25
# HELP up Whether it is.
# TYPE up gauge
up 1
# HELP odd Values that are no numbers.
# TYPE odd gauge
odd +Inf
# HELP duration_seconds Time.
# TYPE duration_seconds histogram
duration_seconds_bucket{op="read",le="0.001"} 3
duration_seconds_bucket{op="read",le="0.5"} 3
duration_seconds_bucket{op="read",le="+Inf"} 5
duration_seconds_sum{op="read"} 7.5
duration_seconds_count{op="read"} 5
`
	if got := string(w.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	families, err := promtest.Parse(want)
	if err != nil || len(families) != 5 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	if v := promtest.Find(families, "requests_total", "origin", "peer", "op", "read"); v != 12345678901 {
		t.Errorf("found %v", v)
	}
	if v := families[0].Samples[0].Labels["version"]; v != "a \"b\" \\ c\nd" {
		t.Errorf("label %q", v)
	}
}

// The tests of others are worth what their parser refuses.
func TestParserIsStrict(t *testing.T) {
	const good = "# HELP a A.\n# TYPE a gauge\na 1\n"
	if _, err := promtest.Parse(good); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"no end of the line":   strings.TrimSuffix(good, "\n"),
		"twice":                good + good,
		"a series twice":       good + "a 1\n",
		"no help":              "# TYPE a gauge\na 1\n",
		"no type":              "# HELP a A.\na 1\n",
		"unknown type":         "# HELP a A.\n# TYPE a odd\na 1\n",
		"no samples":           "# HELP a A.\n# TYPE a gauge\n",
		"another's sample":     "# HELP a A.\n# TYPE a gauge\nb 1\n",
		"a longer name":        "# HELP a A.\n# TYPE a gauge\na_sum 1\n",
		"counter's name":       "# HELP a A.\n# TYPE a counter\na 1\n",
		"gauge's name":         "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
		"negative counter":     "# HELP a_total A.\n# TYPE a_total counter\na_total -1\n",
		"no value":             "# HELP a A.\n# TYPE a gauge\na\n",
		"two blanks":           "# HELP a A.\n# TYPE a gauge\na  1\n",
		"open label":           "# HELP a A.\n# TYPE a gauge\na{b=\"c} 1\n",
		"label without quotes": "# HELP a A.\n# TYPE a gauge\na{b=c} 1\n",
		"label twice":          "# HELP a A.\n# TYPE a gauge\na{b=\"c\",b=\"c\"} 1\n",
		"bad escape":           "# HELP a A.\n# TYPE a gauge\na{b=\"\\t\"} 1\n",
		"no +Inf":              "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
		"falling buckets":      "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
		"another count":        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
	} {
		if _, err := promtest.Parse(text); err == nil {
			t.Errorf("%s: accepted\n%s", what, text)
		}
	}
}
