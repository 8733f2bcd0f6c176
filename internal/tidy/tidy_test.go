// Package tidy keeps the house in order: tests that read the sources and hold
// them against the layers of docs/architecture.md and the limits of the style.
// Each rule names its reason.
package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "sheepdog"

// file is one Go source of the module.
type file struct {
	path    string // from the root, with slashes
	pkg     string // its directory; "." for the root
	test    bool
	imports []string
	lines   int
	ast     *ast.File
	fset    *token.FileSet
}

func TestHouse(t *testing.T) {
	all := sources(t)
	for name, check := range map[string]func(*testing.T, []file){
		"layers": checkLayers, "libraries": checkLibrariesBehindOneFile, "sizes": checkSizes, "init": checkNoInit, "clocks": checkClocks, "raw calls": checkRawCalls, "comments": checkPackageComments,
	} {
		t.Run(name, func(t *testing.T) { check(t, all) })
	}
}

func sources(t *testing.T) []file {
	t.Helper()
	const root = "../.."
	var out []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "cache" || d.Name() == "bin" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := read(root, path)
		out = append(out, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 100 {
		t.Fatalf("found only %d sources", len(out))
	}
	return out
}

func read(root, path string) (file, error) {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return file{}, err
	}
	f := file{path: filepath.ToSlash(rel), fset: token.NewFileSet()}
	f.pkg, f.test = filepath.ToSlash(filepath.Dir(rel)), strings.HasSuffix(path, "_test.go")
	if f.ast, err = parser.ParseFile(f.fset, path, nil, parser.ParseComments); err != nil {
		return f, err
	}
	f.lines = f.fset.File(f.ast.Pos()).LineCount()
	for _, i := range f.ast.Imports {
		name, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return f, err
		}
		f.imports = append(f.imports, name)
	}
	return f, nil
}

// layers says what a package, and those below it, may import of ours beside the
// root package and its own subpackages. The longest matching name counts.
var layers = []struct {
	pkg    string
	allow  []string
	reason string
}{
	{".", nil, "the words of the system depend on nothing"},
	{"cluster/ring", nil, "placement is a pure function of members"},
	{"cluster/state", []string{"cluster/ring"}, "the state machine of membership knows placement, and no I/O"},
	{"cluster", []string{"internal/kvcheck", "internal/kvlog", "internal/kvsync", "internal/pause", "internal/reserve"}, "cluster decides; it does not know data, disks or VDIs"},
	{"internal/reserve", nil, "room on a file system is known to no room"},
	{"internal/kvcheck", nil, "a look at files knows no room"},
	{"internal/kvlog", nil, "a logger knows no room"},
	{"internal/kvsync", nil, "a sync knows no room"},
	{"internal/program", nil, "runs other programs"},
	{"objectstore", []string{"internal/aio", "internal/kvcheck", "internal/kvlog", "internal/kvsync", "internal/pause", "internal/prefetch", "internal/rawio", "internal/reserve"}, "a store knows nothing of views, nodes and VDIs"},
	{"peer", []string{"internal/hugepage", "internal/rawio"}, "frames carry messages; they do not know who serves them"},
	{"coded", nil, "coded layers reach nodes, stores and the directory through interfaces"},
	{"gateway", nil, "replication reaches nodes through interfaces"},
	{"replica", nil, "a replica keeps rules over any engine"},
	{"recovery", []string{"internal/pause"}, "recovery works through interfaces; node joins it to the rest"},
	{"vdi/directory", nil, "the directory is a pure state machine"},
	{"vdi", nil, "VDIs reach objects and the cluster through interfaces"},
	{"nbd", []string{"internal/hugepage", "internal/pause", "internal/rawio"}, "NBD knows devices and nothing of ours but sockets and memory"},
	{"api", nil, "clients link the API alone, so it links nothing else"},
	{"libvirtpool", []string{"api", "internal/pause"}, "libvirt's driver is a client of the control API"},
	{"cmd/dog", []string{"api"}, "dog starts in milliseconds: no store, Raft or gossip"},
	{"cmd/sheep-libvirt", []string{"api", "libvirtpool"}, "the proxy is a client of the control API"},
	{"cmd/sheep", []string{"nbd", "node"}, "the daemon is flags and wiring around package node, and keeps its NBD clients"},
	{"node", []string{"api", "cluster", "coded", "gateway", "internal/prom", "internal/shelf", "nbd", "objectstore", "peer", "recovery", "replica", "vdi"}, "node joins the rooms"},
	{"internal/sim/world", []string{"api", "cluster", "internal/sim", "nbd", "node", "objectstore", "vdi"}, "simulated clusters are made of real nodes, and guests use the devices that these serve"},
	{"internal/sim", nil, "the simulated network replaces the real one"},
	{"internal/prefetch", nil, "one instruction"},
	{"internal/pause", nil, "a wait knows no room"},
	{"internal/rawio", nil, "a way to use sockets"},
	{"internal/hugepage", nil, "memory for bytes of any kind"},
	{"internal/aio", nil, "a way to write to files"},
	{"internal/shelf", nil, "a cache in a file knows no room"},
	{"internal/prom", nil, "a text format knows no metrics"},
	{"internal/model", nil, "the model is not the code"},
	{"internal/tidy", nil, "reads sources only"},
	{"bench", []string{"api", "internal/pause", "internal/program"}, "a benchmark measures the binaries"},
	{"internal/systemdtest", nil, "systemd, for tests, knows nothing of ours"},
	{"tests", []string{"api", "internal/program", "libvirtpool"}, "end-to-end tests use the binaries"},
}

func within(pkg, parent string) bool {
	return pkg == parent || strings.HasPrefix(pkg, parent+"/")
}

func checkLayers(t *testing.T, all []file) {
	for _, f := range all {
		if f.test {
			continue // tests may join what they test with what it is made for
		}
		i := slices.IndexFunc(layers, func(l struct {
			pkg    string
			allow  []string
			reason string
		}) bool {
			return f.pkg == l.pkg || l.pkg != "." && within(f.pkg, l.pkg)
		})
		if i < 0 {
			t.Errorf("%s: package %s has no place in the layers; give it one here, with its reason", f.path, f.pkg)
			continue
		}
		rule := layers[i]
		for _, name := range f.imports {
			if name == module || !strings.HasPrefix(name, module+"/") {
				continue
			}
			ours := strings.TrimPrefix(name, module+"/")
			if within(ours, rule.pkg) || slices.ContainsFunc(rule.allow, func(a string) bool { return within(ours, a) }) {
				continue
			}
			t.Errorf("%s imports %s: %s", f.path, name, rule.reason)
		}
	}
}

// Some libraries are behind one file each, so that they can be replaced there.
func checkLibrariesBehindOneFile(t *testing.T, all []file) {
	for _, rule := range []struct {
		library string
		files   []string
	}{
		{"github.com/hashicorp/memberlist", []string{"cluster/gossip.go"}},
		{"github.com/dgraph-io/badger/", []string{"cluster/raftlog.go", "internal/kvcheck/kvcheck.go", "objectstore/badger.go"}},
		{"github.com/pojntfx/go-nbd/", []string{"nbd/protocol.go"}},
	} {
		for _, f := range all {
			if f.test || slices.Contains(rule.files, f.path) {
				continue
			}
			for _, name := range f.imports {
				if strings.HasPrefix(name, rule.library) {
					t.Errorf("%s imports %s, which belongs into %v only", f.path, name, rule.files)
				}
			}
		}
	}
}

// Limits of the style: the tail is kept short.
const (
	maxFunction = 70  // lines
	maxFile     = 500 // lines, tests apart
)

func checkSizes(t *testing.T, all []file) {
	for _, f := range all {
		if f.test {
			continue
		}
		if f.lines > maxFile+10 {
			t.Errorf("%s has %d lines; is it still one noun?", f.path, f.lines)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if n > maxFunction {
				t.Errorf("%s: %s has %d lines, at most %d", f.path, fn.Name.Name, n, maxFunction)
			}
		}
	}
}

// No init functions: what runs at start-up is called from main.
func checkNoInit(t *testing.T, all []file) {
	for _, f := range all {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", f.path)
			}
		}
	}
}

// clockReaders are the files that take the wall clock apart, or put it together.
var clockReaders = map[string]string{
	"cluster/raftlog.go":             "a date that Raft keeps and shows",
	"recovery/scrub.go":              "what outlives the process; a wait is bounded when it is read",
	"internal/prom/prom.go":          "a date, as Prometheus wants it",
	"nbd/session.go":                 "a deadline that is over",
	"libvirtpool/client/client.go":   "a deadline that is over",
	"libvirtpool/server/snapshot.go": "a date, and a name made of one, as libvirt does",
	"cmd/dog/internal/show":          "dates for people",
}

// The wall clock jumps, and time.Time knows how to measure past that, but only while
// it is a time.Time: durations between numbers of seconds or nanoseconds since 1970
// are wrong by the jump, one by a year for a year.
func checkClocks(t *testing.T, all []file) {
	for _, f := range all {
		if _, ok := clockReaders[f.path]; ok || f.test || clockReaders[f.pkg] != "" || within(f.pkg, "tests") || within(f.pkg, "bench") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			to, ok := call.Fun.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"Unix", "UnixMilli", "UnixMicro", "UnixNano"}, to.Sel.Name) {
				t.Errorf("%s: %s makes a number of a wall clock; measure with time.Since, or give the reason in clockReaders", f.fset.Position(call.Pos()), to.Sel.Name)
			}
			return true
		})
	}
}

// prompt are the system calls that may be made without the scheduler's knowledge: they
// wait for nothing. Whatever a disk can hold up would keep one of its processors as long,
// and all of them from the next collection of garbage on.
var prompt = []string{"SYS_SENDMSG", "SYS_RECVFROM", "SYS_PREADV2", "SYS_CLOCK_GETTIME", "SYS_IO_GETEVENTS"}

func checkRawCalls(t *testing.T, all []file) {
	for _, f := range all {
		if f.test {
			continue
		}
		raw := false
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			raw = raw || ok && strings.HasPrefix(sel.Sel.Name, "RawSyscall")
			return true
		})
		if !raw {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && strings.HasPrefix(sel.Sel.Name, "SYS_") && !slices.Contains(prompt, sel.Sel.Name) {
				t.Errorf("%s: %s in a file that makes system calls past the scheduler", f.fset.Position(n.Pos()), sel.Sel.Name)
			}
			return true
		})
	}
}

// Every package says what it is for.
func checkPackageComments(t *testing.T, all []file) {
	said := make(map[string]bool)
	for _, f := range all {
		if f.ast.Doc != nil {
			said[f.pkg] = true
		} else if _, ok := said[f.pkg]; !ok {
			said[f.pkg] = false
		}
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}
