package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/api/apitest"
)

// day is when everything in the tests happened.
var day = time.Date(2026, 11, 22, 14, 25, 4, 0, time.UTC)

// fixture is a fake cluster behind a real HTTP server, and the environment of
// the dogs that talk to it.
type fixture struct {
	backend *apitest.Backend
	addr    string
	env     map[string]string
	dir     string
}

func newFixture(t *testing.T, nodes int) *fixture {
	t.Helper()
	b := apitest.New(nodes)
	b.Now = func() time.Time { return day }
	b.Info.Config.Created = day
	b.Info.History[0].Time = day
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = api.NewServer(b, api.Options{}).HTTPServer(t.Context())
	srv.Start()
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	return &fixture{backend: b, addr: addr, dir: t.TempDir(), env: map[string]string{"SHEEPDOG_DOG_PORT": port}}
}

// run is one dog; its output has ADDR where the test's address was.
func (f *fixture) run(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, talk bytes.Buffer
	d := &dog{stdin: strings.NewReader(stdin), stdout: &out, stderr: &talk, zone: time.UTC, now: func() time.Time { return day }, getenv: func(k string) string { return f.env[k] }}
	code = d.run(t.Context(), args)
	clean := strings.NewReplacer(f.addr, "ADDR", f.dir, "DIR")
	return clean.Replace(out.String()), clean.Replace(talk.String()), code
}

// -T wrote its line behind the bytes of a VDI, and behind a document.
func TestElapsedTimeIsNotAmongBytes(t *testing.T) {
	f := newFixture(t, 1)
	f.must(t, "", "vdi", "create", "v", "4M")
	f.must(t, "", "vdi", "snapshot", "-s", "s", "v")
	for _, words := range [][]string{{"read", "v", "0", "16"}, {"list", "-o", "json"}, {"backup", "--full", "-s", "s", "v"}} {
		out, talk, code := f.run(t, "", append([]string{"vdi"}, append(words, "-T")...)...)
		if code != 0 || strings.Contains(out, "Elapsed") || !strings.Contains(talk, "Elapsed time") {
			t.Errorf("%v: exit %d, %q, %q", words, code, out, talk)
		}
	}
	if out := f.must(t, "", "vdi", "list", "-T"); !strings.Contains(out, "Elapsed time") {
		t.Errorf("%q", out)
	}
}

// With -s and an empty variable a script read, checked or changed the VDI in place of a
// snapshot.
func TestEmptySnapshotIsNotTheVDI(t *testing.T) {
	f := newFixture(t, 1)
	f.must(t, "", "vdi", "create", "v", "4M")
	for _, words := range [][]string{{"read", "v"}, {"check", "v"}, {"setattr", "v", "key", "value"}, {"getattr", "v", "key"}, {"object", "map", "v"}, {"delete", "v"},
		{"clone", "v", "w"}, {"rollback", "-f", "v"}, {"backup", "--dir", f.dir, "v"}, {"alter-copy", "-c", "2", "v"}} {
		if _, talk, code := f.run(t, "", append([]string{"vdi"}, append(words, "-s", "")...)...); code != exitUsage || !strings.Contains(talk, "snapshot is empty") {
			t.Errorf("%v: exit %d, %q", words, code, talk)
		}
	}
	f.must(t, "", "vdi", "snapshot", "-s", "", "v") // a snapshot without a tag
}

// Formatting deleted what was in the trash without a question.
func TestFormatAsksForTheTrash(t *testing.T) {
	f := newFixture(t, 1)
	f.must(t, "", "vdi", "trash", "enable")
	f.must(t, "", "vdi", "create", "v", "4M")
	f.must(t, "", "vdi", "delete", "v")
	if _, talk, code := f.run(t, "no\n", "cluster", "format", "-c", "1"); code != 1 || !strings.Contains(talk, "1 VDIs and snapshots") {
		t.Errorf("exit %d, %q", code, talk)
	}
	if formats := f.backend.Formats(); len(formats) != 0 {
		t.Errorf("formatted: %+v", formats)
	}
}

// TestScripts runs the command lines in testdata. What a command wrote to
// stdout stands as it is; the list of options after a usage is left out; lines of stderr begin with `! `; an exit code that is
// not 0 comes last.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		f := newFixture(t, 3)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "cluster":
				var nodes int
				d.ScanArgs(t, "nodes", &nodes)
				f = newFixture(t, nodes)
				return ""
			case "given":
				for _, arg := range d.CmdArgs {
					givens[arg.Key](f.backend)
				}
				return ""
			case "dog":
				var stdin string
				d.MaybeScanArgs(t, "stdin", &stdin)
				return f.script(t, strings.ReplaceAll(stdin, "_", "\n"), d.Input)
			}
			d.Fatalf(t, "unknown directive %s", d.Cmd)
			return ""
		})
	})
}

func (f *fixture) script(t *testing.T, stdin, input string) string {
	var all strings.Builder
	for line := range strings.SplitSeq(input, "\n") {
		out, talk, code := f.run(t, stdin, words(line)...)
		if before, options, found := strings.Cut(out, "Options:\n"); found {
			if out = before; !strings.Contains(options, "-p, --port") {
				t.Errorf("%s: options are missing: %q", line, options)
			}
		}
		all.WriteString(strings.ReplaceAll(out, "\x00", `\0`))
		if out != "" && !strings.HasSuffix(out, "\n") {
			all.WriteString("(no newline)\n")
		}
		for l := range strings.Lines(talk) {
			all.WriteString("! " + strings.TrimSuffix(l, "\n") + "\n")
		}
		if code != 0 {
			fmt.Fprintf(&all, "exit %d\n", code)
		}
	}
	return all.String()
}

// words splits at blanks; '...' keeps them.
func words(line string) (list []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			list = append(list, part)
		} else {
			list = append(list, strings.Fields(part)...)
		}
	}
	return list
}

// givens are states of the fake cluster that scripts start from.
var givens = map[string]func(*apitest.Backend){
	"family":      givenFamily,
	"unformatted": func(b *apitest.Backend) { b.Info.State = api.StateUnformatted },
	"waiting":     func(b *apitest.Backend) { b.Info.State = api.StateWaiting },
	"halted":      func(b *apitest.Backend) { b.Info.State = api.StateHalted },
	"shutdown":    func(b *apitest.Backend) { b.Info.State = api.StateShutdown },
	"warning":     func(b *apitest.Backend) { b.Info.Warnings = []string{"node 127.0.0.1:7000 runs with --nosync"} },
	"epochs": func(b *apitest.Backend) {
		m := b.Info.History[0].Members
		b.Info.History = []api.EpochRecord{
			{Epoch: 1, Time: day, Members: m},
			{Epoch: 2, Time: day.Add(4 * time.Minute), Members: m[:2]},
			{Epoch: 3, Time: day.Add(5 * time.Minute), Members: append([]api.EpochMember{{Addr: "127.0.0.1:7003", VNodes: 64}}, m[1])},
			{Epoch: 4, Time: day.Add(6 * time.Minute), Members: append([]api.EpochMember{{Addr: "127.0.0.1:7003", VNodes: 32}}, m[1])},
		}
	},
	"space": func(b *apitest.Backend) {
		for i, n := range b.NodeList {
			b.Capacity = append(b.Capacity, api.NodeCapacity{Node: n, UsedBytes: uint64(i) * 10775285760, FreeBytes: 37976952832})
		}
		b.Put(api.VDI{Name: "h", ID: 9, SizeBytes: 16 << 50, Copies: sheepdog.Policy{Copies: 3}, BlockSizeShift: 22}, nil)
	},
	"silent": func(b *apitest.Backend) { b.Capacity[1] = api.NodeCapacity{Node: b.NodeList[1], Error: "no answer"} },
	"gateway": func(b *apitest.Backend) {
		b.NodeList[2].VNodes, b.NodeList[2].Zone, b.NodeList[2].Addr = 0, 4294967295, "[fe80::1]:7000"
	},
	"recovering": func(b *apitest.Backend) {
		b.Behind = []api.NodeRecovery{{Node: b.NodeList[2], FinishedObjects: 0}, {Node: b.NodeList[1], FinishedObjects: 452, TotalObjects: 1000}}
	},
	"broken": func(b *apitest.Backend) {
		b.Events = []api.CheckEvent{
			{Begin: &api.CheckVDI{Name: "d"}}, {Progress: &api.CheckProgress{FinishedObjects: 1, TotalObjects: 2}},
			{Finding: &api.Finding{Kind: api.FindingMissing, Object: "1.0", Node: "127.0.0.1:7001", Repaired: true}},
			{Finding: &api.Finding{Kind: api.FindingDifferent, Object: "1.1", Repaired: true}},
			{End: &api.CheckVDI{Name: "d"}}, {Begin: &api.CheckVDI{Name: "d", SnapshotID: 2, Tag: "t"}}, {End: &api.CheckVDI{Name: "d", SnapshotID: 2}},
		}
		b.Summary = api.CheckSummary{Objects: 2, Found: 2, Repaired: 2}
	},
	"unhealed": func(b *apitest.Backend) {
		for i := range b.Events {
			if f := b.Events[i].Finding; f != nil {
				b.Events[i].Finding = &api.Finding{Kind: f.Kind, Object: f.Object, Node: f.Node}
			}
		}
		b.Summary.Repaired = 0
	},
	"lost": func(b *apitest.Backend) {
		b.Events = append(b.Events, api.CheckEvent{Finding: &api.Finding{Kind: api.FindingLost, Object: "1.7", Detail: "2 blocks"}})
		b.Summary.Found, b.Summary.Lost = b.Summary.Found+1, 1
	},
	"loss": func(b *apitest.Backend) {
		b.Info.State = api.StateWaiting
		b.Loss = &api.ForceReport{Survivors: b.NodeList[:1], Lost: b.NodeList[1:], Log: &api.LogEnd{Node: "127.0.0.1:7000", Index: 77, Term: 3, Time: day},
			Partitions: 100, EmptyPartitions: 40, TotalPartitions: 65536, VDIs: []api.DamagedVDI{
				{Name: "vm", VID: 0x7c2b25, Bytes: 12 << 20, Ranges: []api.DamagedPart{{Offset: 0, Length: 8 << 20, Old: true}, {Offset: 64 << 20, Length: 4 << 20}}},
				{Name: "base", SnapshotID: 1, Tag: "gold", VID: 0x7c2b26, Bytes: 4 << 20, Ranges: []api.DamagedPart{{Offset: 4 << 20, Length: 4 << 20}}}}}
	},
	"locked": func(b *apitest.Backend) {
		b.Locked = []api.Lock{{Name: "test", ID: 0x7c2b27, Node: 2, Addr: "127.0.0.1:7001"}, {Name: "clone1", ID: 0xc8f989, Node: 9}, {Name: "pool/vol", ID: 0xd242bd, Node: 3, Addr: "[fe80::1]:7000"}}
	},
	"exclusive": func(b *apitest.Backend) { b.Info.Config.Locking = true },
	"fixed":     func(b *apitest.Backend) { b.Info.Config.FixedVNodes = true },
	"counted": func(b *apitest.Backend) {
		b.Counted = api.Stats{Client: api.RequestStats{Total: 13279, Write: 5549, Read: 7727, Remove: 2, Flush: 1, WrittenBytes: 240 << 20, ReadBytes: 361 << 20},
			Peer: api.RequestStats{Active: 3, Total: 7730, Read: 7727}}
	},
	"checkfails": func(b *apitest.Backend) { b.CheckErr = fmt.Errorf("read replica: %w", sheepdog.ErrNoQuorum) },
	"full":       failing(sheepdog.ErrNoSpace),
	"noquorum":   failing(sheepdog.ErrNoQuorum),
	"exists":     failing(sheepdog.ErrExists),
	"healthy":    func(b *apitest.Backend) { b.Fail = nil },
}

func failing(err error) func(*apitest.Backend) {
	return func(b *apitest.Backend) { b.Fail = func(string) error { return err } }
}

func givenFamily(b *apitest.Backend) {
	p := func(n uint64) *uint64 { return &n }
	v := api.VDI{Copies: sheepdog.Policy{Copies: 3}, BlockSizeShift: 22, SizeBytes: 4 << 30, Created: day}
	add := func(edit func(*api.VDI)) {
		w := v
		edit(&w)
		b.Put(w, make([]byte, 4096))
	}
	add(func(v *api.VDI) { v.Name, v.ID, v.ParentID, v.SharedObjects = "test", 0x7c2b27, 0x7c2b26, 1 })
	add(func(v *api.VDI) {
		v.Name, v.ID, v.Snapshot, v.SnapshotID, v.Tag, v.OwnObjects, v.PhysicalBytes = "test", 0x7c2b25, true, 1, "snap1", 1, p(12582912)
	})
	add(func(v *api.VDI) {
		v.Name, v.ID, v.Snapshot, v.SnapshotID, v.SharedObjects, v.ParentID = "test", 0x7c2b26, true, 2, 1, 0x7c2b25
		v.Created = day.Add(time.Hour)
	})
	add(func(v *api.VDI) {
		v.Name, v.ID, v.Clone, v.SharedObjects, v.ParentID, v.SizeBytes = "clone1", 0xc8f989, true, 1, 0x7c2b25, 16<<50
	})
	add(func(v *api.VDI) {
		v.Name, v.ID, v.SizeBytes, v.Copies = `sp ace\x`, 0x21707, 1<<20, sheepdog.Policy{Copies: 4, Parity: 2}
	})
	add(func(v *api.VDI) { v.Name, v.ID = "pool/vol", 0xd242bd })
}

func TestWriteIsExact(t *testing.T) {
	f := newFixture(t, 1)
	f.run(t, "", "vdi", "create", "v", "16")
	expect := func(want string) {
		t.Helper()
		if got := string(f.backend.Data("v", "")); got != want {
			t.Errorf("VDI has %q, want %q", got, want)
		}
	}
	f.run(t, strings.Repeat("x", 16), "vdi", "write", "v")
	f.run(t, "abc", "vdi", "write", "v", "5")
	expect("xxxxxabcxxxxxxxx")
	f.run(t, "abc", "vdi", "write", "v", "8", "5")
	expect("xxxxxabcabc\x00\x00xxx")
	f.run(t, "longer than that", "vdi", "write", "v", "1", "2")
	expect("xloxxabcabc\x00\x00xxx")
	if _, talk, code := f.run(t, "", "vdi", "write", "v", "4"); code != 0 || talk != "" {
		t.Errorf("empty write: %d, %q", code, talk)
	}
	expect("xloxxabcabc\x00\x00xxx")
	if _, talk, code := f.run(t, "", "vdi", "write", "v", "17"); code != 1 || !strings.Contains(talk, "beyond the end") {
		t.Errorf("write beyond the end: %d, %q", code, talk)
	}
	if out, _, _ := f.run(t, "", "vdi", "read", "v", "1", "4"); out != "loxx" {
		t.Errorf("read %q", out)
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, 1)
	f.addr = l.Addr().String()
	_, port, _ := net.SplitHostPort(f.addr)
	l.Close()
	out, talk, code := f.run(t, "", "node", "list", "-p", port)
	if want := "failed to connect to ADDR: Connection refused\nIs sheep running there? Choose another node with -a and -p.\n"; code != 2 || out != "" || talk != want {
		t.Errorf("exit %d, %q, %q", code, out, talk)
	}
	if _, talk, code := f.run(t, "", "node", "list", "-a", "no.such.host.invalid"); code != 1 || !strings.HasPrefix(talk, "Invalid ip address no.such.host.invalid") {
		t.Errorf("exit %d, %q", code, talk)
	}
}

func TestTimeout(t *testing.T) {
	f := newFixture(t, 1)
	stuck := make(chan struct{})
	f.backend.Fail = func(string) error { <-stuck; return nil }
	_, talk, code := f.run(t, "", "node", "list", "--timeout", "20ms")
	close(stuck)
	if code != 2 || !strings.Contains(talk, "--timeout") {
		t.Errorf("exit %d, %q", code, talk)
	}
}

func TestEnvironmentAndLog(t *testing.T) {
	f := newFixture(t, 1)
	log := filepath.Join(f.dir, "log")
	f.env["SHEEPDOG_DOG_LOG"], f.env["SHEEPDOG_DOG_LOG_PATH"] = "1", log
	f.env["SHEEPDOG_DOG_ADDR"] = "localhost"
	if _, talk, code := f.run(t, "", "node", "list", "-r"); code != 0 {
		t.Fatalf("exit %d, %q", code, talk)
	}
	if b, err := os.ReadFile(log); err != nil || !strings.HasSuffix(string(b), " dog node list -r\n") {
		t.Errorf("log has %q, %v", b, err)
	}
	f.env["SHEEPDOG_DOG_PORT"] = "abc"
	if _, talk, code := f.run(t, "", "node", "list"); code != 64 || !strings.HasPrefix(talk, "Invalid port number 'abc'\n") {
		t.Errorf("exit %d, %q", code, talk)
	}
}

func TestElapsedTime(t *testing.T) {
	f := newFixture(t, 1)
	out, _, _ := f.run(t, "", "node", "list", "-r", "-T")
	if !strings.HasPrefix(out, "0 127.0.0.1:7000 128 0\n\nElapsed time: 0.") || !strings.HasSuffix(out, " seconds\n") {
		t.Errorf("%q", out)
	}
}

func TestCompletion(t *testing.T) {
	f := newFixture(t, 1)
	givenFamily(f.backend)
	out, _, _ := f.run(t, "", "__complete", "vdi", "delete", "")
	for _, want := range []string{"test\n", "clone1\n", "pool/vol\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("completion misses %q: %q", want, out)
		}
	}
	if out, _, code := f.run(t, "", "completion", "bash"); code != 0 || !strings.Contains(out, "__start_dog") {
		t.Errorf("exit %d, %.80q", code, out)
	}
}

// TestEveryCommandRefusesNonsense: unknown options, too many arguments and bad
// common options end with 64 and touch nothing.
func TestEveryCommandRefusesNonsense(t *testing.T) {
	f := newFixture(t, 1)
	f.backend.Fail = func(m string) error { t.Errorf("method %s was called", m); return sheepdog.ErrInvalid }
	root := (&dog{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, getenv: func(string) string { return "" }}).commands()
	n := 0
	for _, g := range root.Commands() {
		for _, c := range g.Commands() {
			n++
			base := []string{g.Name(), c.Name()}
			many := strings.Split(strings.Repeat("x ", 100), " ")
			for _, extra := range [][]string{{"--nonsense"}, many, {"-p", "0"}, {"-p", "70000"}, {"-o", "xml"}, {"--timeout", "-1s"}, {"--timeout", "x"}} {
				args := slices.Concat(base, extra)
				if len(extra) < 100 && extra[0] != "--nonsense" {
					args = append(args, arguments4(c.Name())...)
				}
				if _, talk, code := f.run(t, "", args...); code != 64 || talk == "" {
					t.Errorf("dog %s: exit %d, %q", strings.Join(args, " "), code, talk)
				}
			}
			if out, talk, code := f.run(t, "", append(base, "-h")...); code != 0 || !strings.Contains(out, "Usage:") || talk != "" {
				t.Errorf("dog %s -h: exit %d", strings.Join(base, " "), code)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d commands", n)
	}
}

// arguments4 are good arguments of a command.
func arguments4(name string) []string {
	switch name {
	case "create", "resize":
		return []string{"v", "1G"}
	case "clone", "import":
		return []string{"v", "w"}
	case "recover":
		return []string{"enable"}
	case "snapshot", "delete", "rollback", "read", "write", "check":
		return []string{"v"}
	}
	return nil
}

// TestLinksNothingHeavy: dog starts at once because it is a client only.
func TestLinksNothingHeavy(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	ours := []string{"sheepdog", "sheepdog/api", "sheepdog/cmd/dog", "sheepdog/cmd/dog/internal/show", "sheepdog/cmd/dog/internal/backup"}
	others := []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/sys/unix"}
	for dep := range strings.FieldsSeq(string(out)) {
		switch {
		case strings.HasPrefix(dep, "sheepdog") && !slices.Contains(ours, dep):
			t.Errorf("dog links %s, but it may only speak to the control API", dep)
		case strings.Contains(strings.Split(dep, "/")[0], ".") && !slices.Contains(others, dep):
			t.Errorf("dog links %s, which slows its start", dep)
		}
	}
}

func TestFullDiskUnderStdout(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	f := newFixture(t, 1)
	givenFamily(f.backend)
	for _, args := range [][]string{{"node", "list"}, {"vdi", "list", "-o", "json"}, {"vdi", "read", "test", "0", "4096"}} {
		var talk bytes.Buffer
		d := &dog{stdin: strings.NewReader(""), stdout: full, stderr: &talk, getenv: func(k string) string { return f.env[k] }}
		if code := d.run(t.Context(), args); code != 1 || !strings.Contains(talk.String(), "no space left on device") {
			t.Errorf("%v: exit %d, %q", args, code, talk.String())
		}
	}
}
