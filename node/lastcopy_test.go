package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/internal/program"
)

// notes is a log in memory.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(b)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

// pair starts two nodes of one cluster of two copies. The second one comes when
// recovery is off, so that what the first one has it has alone.
func pair(t *testing.T) (first, second *Node, log *notes) {
	t.Helper()
	file, log := filepath.Join(t.TempDir(), "local"), new(notes)
	start := func(zone uint32, l *slog.Logger) *Node {
		port, err := program.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		n, err := Start(Config{Meta: t.TempDir(), Port: port, Zone: &zone, LocalFile: file, Logger: l})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close(context.Background()) })
		return n
	}
	first = start(0, slog.New(slog.NewTextHandler(log, nil)))
	if err := first.cluster.Format(t.Context(), sheepdog.Config{Policy: sheepdog.Policy{Copies: 2}, BlockSizeShift: sheepdog.DefaultObjectShift}); err != nil {
		t.Fatal(err)
	}
	if err := (backend{first}).SetRecovery(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	second = start(1, nil)
	if err := second.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return first, second, log
}

// write fills the first bytes of a new VDI.
func write(t *testing.T, n *Node, name string) {
	t.Helper()
	ctx, b := t.Context(), backend{n}
	if _, err := b.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	v, err := n.vdis.Open(name, "")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close(ctx)
	if err := v.WriteAt(ctx, make([]byte, sheepdog.BlockSize), 0); err != nil {
		t.Fatal(err)
	}
}

// TestNodeThatLeavesWithTheLastCopySaysSo: three nodes were stopped one after the other
// while data moved, and took the only complete replicas of some along. Nothing said so
// before guests hung.
func TestNodeThatLeavesWithTheLastCopySaysSo(t *testing.T) {
	first, second, log := pair(t)
	write(t, second, "v")
	kill := func(n *Node, ref api.NodeRef) error { return (backend{n}).KillNode(t.Context(), ref) }
	for at, ref := range map[*Node]api.NodeRef{first: {Self: true}, second: {ID: first.self.ID}} {
		err := kill(at, ref)
		if !errors.Is(err, sheepdog.ErrBusy) {
			t.Fatalf("the only node with the data was told to leave: %v", err)
		}
		for _, want := range []string{first.self.Addr, "1 partition", "dog node recovery", "--force"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: does not say %q", err, want)
			}
		}
	}
	if err := kill(second, api.NodeRef{ID: first.self.ID, Force: true}); err != nil {
		t.Fatal(err)
	}
	<-first.Done()
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), lastCopies) || !strings.Contains(log.String(), "partitions=1 ") {
		t.Errorf("the node that left with the only complete replicas did not say so:\n%s", log)
	}
	warned := strings.Join(second.warnings(second.cluster.View()), "\n")
	if !strings.Contains(warned, "start the missing nodes: "+first.self.Addr) {
		t.Errorf("the other node warns of\n%s\nwhich does not name %s", warned, first.self.Addr)
	}
}

// A node that others can do without is not held back, nor does it warn; nor one of which
// nothing is used.
func TestNodeThatCanBeSparedLeaves(t *testing.T) {
	t.Run("empty", func(t *testing.T) {
		first, second, log := pair(t)
		leaveQuietly(t, first, second, log)
	})
	t.Run("copied", func(t *testing.T) {
		first, second, log := pair(t)
		write(t, second, "v")
		if err := (backend{first}).SetRecovery(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		for v := first.cluster.View(); len(soleHolder(v, first.self.ID)) > 0; v = first.cluster.View() {
			select {
			case <-first.cluster.Changed(v):
			case <-t.Context().Done():
				t.Fatal("the data were not copied")
			}
		}
		leaveQuietly(t, first, second, log)
	})
}

func leaveQuietly(t *testing.T, first, second *Node, log *notes) {
	t.Helper()
	if err := (backend{second}).KillNode(t.Context(), api.NodeRef{ID: first.self.ID}); err != nil {
		t.Fatal(err)
	}
	<-first.Done()
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), lastCopies) {
		t.Errorf("a node that others can do without said\n%s", log)
	}
}
