package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"sheepdog/tests/internal/lab"
)

// TestCommands types the command lines in testdata at a real cluster of three
// nodes: of every command one that does its work and one that cannot. What it
// prints stands below it as it is but for what differs from run to run, which has
// a word in its place; lines of stderr begin with `! `, an exit code that is not 0
// comes last. -rewrite writes testdata anew.
//
// Directives: dog runs lines at the first node; with at=N at another, with
// stdin=TEXT (_ is a newline) or stdin-noise=BYTES for standard input. With shape
// only the words of the output are compared and not its numbers, with anywhere not
// which nodes have something. settled waits until recovery has ended; kill and
// start are of one node; left waits until a process has ended.
func TestCommands(t *testing.T) {
	w := &world{lab.New(t)}
	for zone := range 3 {
		w.Plan(zone, "--recovery-delay", "300ms")
	}
	slices.SortFunc(w.Sheep, func(a, b *lab.Sheep) int { return a.Port - b.Port }) // as dog lists them
	for zone, s := range w.Sheep {
		s.Zone = zone
		w.Run(s)
	}
	w.Meet()
	dir := t.TempDir()
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w.TB = t
		s := &script{world: w, t: t, clean: w.cleaner(dir), dir: dir}
		datadriven.RunTest(t, path, s.directive)
	})
}

// script is one file of testdata being run.
type script struct {
	*world
	t     *testing.T
	clean func(string) string
	dir   string
}

func (s *script) directive(t *testing.T, d *datadriven.TestData) string {
	var node int
	d.MaybeScanArgs(t, "at", &node)
	sheep := s.Sheep[node]
	switch d.Cmd {
	case "dog":
		return s.lines(d, node)
	case "settled":
		s.Recovered(20 * time.Second)
	case "kill":
		s.Kill(sheep)
	case "start":
		s.Run(sheep)
	case "left":
		s.Eventually(10*time.Second, "the node is gone", func() error {
			if sheep.Alive() {
				return fmt.Errorf("process %d runs", sheep.Port)
			}
			return nil
		})
	default:
		d.Fatalf(t, "unknown directive %s", d.Cmd)
	}
	return ""
}

func (s *script) lines(d *datadriven.TestData, node int) string {
	var text string
	var size int
	d.MaybeScanArgs(s.t, "stdin", &text)
	d.MaybeScanArgs(s.t, "stdin-noise", &size)
	stdin := []byte(strings.ReplaceAll(text, "_", "\n"))
	if size > 0 {
		stdin = noise(7, size)
	}
	var all strings.Builder
	for line := range strings.SplitSeq(d.Input, "\n") {
		out, talk, code := s.DogIn(s.Sheep[node], stdin, s.words(line)...)
		out, talk = s.clean(out), s.clean(talk)
		if d.HasArg("shape") {
			out = shape(out)
		}
		if d.HasArg("anywhere") {
			out = anywhere(out)
		}
		all.WriteString(told(out, talk, code))
	}
	return all.String()
}

// told is what one command did, as it stands in testdata.
func told(out, talk string, code int) string {
	var b strings.Builder
	out, _, _ = strings.Cut(out, "Options:\n")
	b.WriteString(strings.ReplaceAll(out, "\x00", `\0`))
	if out != "" && !strings.HasSuffix(out, "\n") {
		b.WriteString("(no newline)\n")
	}
	for l := range strings.Lines(talk) {
		b.WriteString("! " + strings.TrimSuffix(l, "\n") + "\n")
	}
	if code != 0 {
		fmt.Fprintf(&b, "exit %d\n", code)
	}
	return b.String()
}

// words splits at blanks; '...' keeps them. DIR and NODEn stand for the directory
// of the test and the addresses of nodes.
func (s *script) words(line string) (list []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			list = append(list, part)
		} else {
			list = append(list, strings.Fields(part)...)
		}
	}
	for i := range list {
		list[i] = strings.ReplaceAll(list[i], "DIR", s.dir)
		for n, sheep := range s.Sheep {
			list[i] = strings.ReplaceAll(list[i], fmt.Sprintf("NODE%d", n), fmt.Sprintf("127.0.0.1:%d", sheep.Port))
		}
	}
	return list
}

var moments = []struct {
	re   *regexp.Regexp
	word string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?`), "TIME"},
	{regexp.MustCompile(`\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4}`), "TIME"},
	{regexp.MustCompile(`\b\d{8}T\d{6}(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d\b`), "DAY"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d\b`), "CLOCK"},
	{regexp.MustCompile(`\b1[789]\d{8}\b`), "SECONDS"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "NODE-ID"},
	{regexp.MustCompile(`(?m)^(= (?:copy|image) .* SECONDS )[0-9a-f]+`), "${1}VDI-ID"}, // of the name that they had while they were filled
	{regexp.MustCompile(`(sheep that run: )\S+`), "${1}VERSION"},
}

// cleaner puts words in the place of what differs from run to run.
func (w *world) cleaner(dir string) func(string) string {
	var pairs []string
	for i, s := range w.Sheep {
		pairs = append(pairs, fmt.Sprintf("127.0.0.1:%d", s.Port), fmt.Sprintf("NODE%d", i), w.Meta(s), fmt.Sprintf("META%d", i))
	}
	names := strings.NewReplacer(append(pairs, dir, "DIR", w.Dir, "LAB")...)
	return func(s string) string {
		s = names.Replace(s)
		for _, m := range moments {
			s = m.re.ReplaceAllString(s, m.word)
		}
		return s
	}
}

var (
	number = regexp.MustCompile(`\b\d+(\.\d+)?`)
	units  = regexp.MustCompile(`\bN [KMGTP]?B\b`)
	blanks = regexp.MustCompile(` {2,}`)
	node   = regexp.MustCompile(`\bNODE\d\b`)
)

// shape leaves the words of an output: numbers and sizes are N, blanks are one.
func shape(s string) string {
	return blanks.ReplaceAllString(units.ReplaceAllString(number.ReplaceAllString(s, "N"), "SIZE"), " ")
}

// anywhere takes nodes for one, and sorts the lines that they come in.
func anywhere(s string) string {
	lines := strings.SplitAfter(node.ReplaceAllString(s, "NODE"), "\n")
	for i := 0; i < len(lines); {
		j := i
		for j < len(lines) && strings.HasPrefix(lines[j], "NODE ") {
			j++
		}
		slices.Sort(lines[i:j])
		i = j + 1
	}
	return strings.Join(lines, "")
}
