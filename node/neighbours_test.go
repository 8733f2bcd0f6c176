package node

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sheepdog"
	"sheepdog/internal/program"
)

// neighbourhood is a host on which sheep find each other by one file.
type neighbourhood struct {
	t    *testing.T
	file string
}

// start starts a sheep that was given no -c, or one that was told to join.
func (h neighbourhood) start(meta string, told bool) (*Node, error) {
	h.t.Helper()
	port, err := program.FreePort()
	if err != nil {
		h.t.Fatal(err)
	}
	n, err := Start(Config{Meta: meta, Port: port, LocalFile: h.file, LocalByDefault: !told})
	if err == nil {
		h.t.Cleanup(func() { n.Close(context.Background()) })
	}
	return n, err
}

func (h neighbourhood) mustStart(meta string, told bool) *Node {
	h.t.Helper()
	n, err := h.start(meta, told)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// found has a node found a cluster.
func (h neighbourhood) found(n *Node) {
	h.t.Helper()
	if err := n.cluster.Format(h.t.Context(), sheepdog.Config{Policy: sheepdog.Policy{Copies: 1}, BlockSizeShift: sheepdog.DefaultObjectShift}); err != nil {
		h.t.Fatal(err)
	}
}

// refused has a sheep with a directory refused that names another.
func (h neighbourhood) refused(meta, other string) {
	h.t.Helper()
	before := string(localFileText(h.t, h.file))
	_, err := h.start(meta, false)
	if err == nil {
		h.t.Fatalf("a sheep of %s joined that of %s without being told", meta, other)
	}
	for _, want := range []string{other, "-c local ", "-c local:FILE"} {
		if !strings.Contains(err.Error(), want) {
			h.t.Errorf("%v: does not say %q", err, want)
		}
	}
	if after := string(localFileText(h.t, h.file)); after != before {
		h.t.Errorf("the refused sheep left the file as\n%s, it was\n%s", after, before)
	}
}

func localFileText(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestNewcomerDoesNotJoinStrangers: a script that started sheep without -c, in a
// directory of its own, had them join the cluster that somebody else ran on the host,
// and removed their directories when it was done, with that cluster's data.
func TestNewcomerDoesNotJoinStrangers(t *testing.T) {
	h := neighbourhood{t, filepath.Join(t.TempDir(), "local")}
	ours, theirs := t.TempDir(), t.TempDir()
	first := h.mustStart(filepath.Join(ours, "0"), false)
	h.refused(filepath.Join(theirs, "0"), first.self.Addr+" ("+filepath.Join(ours, "0")+")") // a format would take both
	h.found(first)
	h.refused(filepath.Join(theirs, "1"), first.self.Addr)
	for _, n := range []*Node{h.mustStart(filepath.Join(ours, "1"), false), h.mustStart(filepath.Join(theirs, "2"), true)} {
		if err := n.ready(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A directory that belongs to everybody makes its entries nobody's neighbours.
func TestNewcomerOfSharedDirectory(t *testing.T) {
	h := neighbourhood{t, filepath.Join(t.TempDir(), "local")}
	tmp := t.TempDir()
	if err := os.Chmod(tmp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	first := h.mustStart(filepath.Join(tmp, "a"), false)
	h.refused(filepath.Join(tmp, "b"), first.self.Addr)
}

// A member knows which cluster it is of, whoever else there is, and does not take along
// a sheep that is there by default and has no cluster.
func TestMemberStartsBesideStrangers(t *testing.T) {
	h := neighbourhood{t, filepath.Join(t.TempDir(), "local")}
	meta := filepath.Join(t.TempDir(), "0")
	n := h.mustStart(meta, false)
	h.found(n)
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	alone := h.mustStart(filepath.Join(t.TempDir(), "0"), false)
	again := h.mustStart(meta, false)
	for _, n := range []*Node{alone, again} {
		if found := n.seeds(); len(found) != 0 {
			t.Errorf("%s looks for others at %v", n.cfg.Meta, found)
		}
	}
	second := h.mustStart(filepath.Join(filepath.Dir(meta), "1"), true)
	if found := again.seeds(); !slices.Equal(found, []string{second.self.Addr}) {
		t.Errorf("%s looks for others at %v, and not at its neighbour's %s", meta, found, second.self.Addr)
	}
}

// What a sheep that was killed left in the file stops nobody, unless another sheep has
// its port now.
func TestNewcomerBesideWhatIsLeft(t *testing.T) {
	h := neighbourhood{t, filepath.Join(t.TempDir(), "local")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	other := neighbourhood{t, filepath.Join(t.TempDir(), "local")}.mustStart(filepath.Join(t.TempDir(), "0"), true)
	ours := t.TempDir()
	if err := os.WriteFile(h.file, []byte(l.Addr().String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.mustStart(filepath.Join(ours, "0"), false)
	if _, err := localFile(h.file).add(other.self.Addr); err != nil {
		t.Fatal(err)
	}
	h.refused(filepath.Join(ours, "1"), other.self.Addr)
}
