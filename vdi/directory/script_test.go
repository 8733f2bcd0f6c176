package directory

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"sheepdog"
)

// TestScripts runs the stories in testdata/scripts. Every `run` block is a list of
// commands, one per line, and the answers to them, one or more lines each:
//
//	create NAME SIZE [COPIES]        snapshot NAME [TAG] [token=N]
//	clone NAME REF NEW [SIZE]        clone-working NAME NEW [SIZE] [token=N]
//	delete NAME | delete-snapshot NAME REF
//	rollback NAME REF [token=N]      resize NAME SIZE | rename NAME NEW
//	setattr NAME KEY VALUE | delattr NAME KEY | getattr NAME KEY
//	open NAME     acquire for node 1      close NAME   release
//	group NAME...                    alter NAME COPIES | flatten NAME
//	trash SECONDS                    untrash NAME [NEW] | purge NAME
//	expire MINUTE                    snapshot NAME TAG expires=MINUTE
//	setattr@ NAME REF KEY VALUE      getattr@ NAME REF KEY
//	write NAME    open, and promise a first write to the working layer
//	merge         all members have merged what is absorbed: prune it
//	recycle on    deletions free the ids of families that they end
//	list | trashcan | layers | tree | locks | chain NAME[@REF] | restart
//
// Every block ends with a check of the whole state.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := newWorld(t)
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			w.t = t
			var out strings.Builder
			for line := range strings.Lines(td.Input) {
				if f := strings.Fields(line); len(f) > 0 {
					out.WriteString(w.line(f))
				}
			}
			w.check()
			return out.String()
		})
	})
}

func (w *world) line(f []string) string {
	switch f[0] {
	case "list":
		return showList(w.d.List())
	case "trashcan":
		return w.showTrash()
	case "getattr@":
		v, err := w.d.Attr(f[1], f[2], f[3])
		return answer(string(v), err)
	case "layers":
		return w.showLayers()
	case "tree":
		return showTree(w.d.Tree(), "")
	case "locks":
		return w.showLocks()
	case "chain":
		return w.showChain(f[1])
	case "merge":
		w.merge()
		return ""
	case "recycle":
		w.recycle = f[1] == "on"
		return ""
	case "restart":
		w.restart()
		return ""
	case "getattr":
		v, err := w.d.Attr(f[1], "", f[2])
		return answer(string(v), err)
	}
	return w.change(f)
}

// change runs a line that proposes commands.
func (w *world) change(f []string) string {
	var token sheepdog.Token
	if last := f[len(f)-1]; strings.HasPrefix(last, "token=") {
		n, _ := strconv.ParseUint(last[6:], 10, 64)
		token, f = sheepdog.Token(n), f[:len(f)-1]
	}
	f = append(f, "", "", "", "")
	switch f[0] {
	case "create":
		policy := sheepdog.Policy{Copies: 3}
		if f[3] != "" {
			if err := policy.UnmarshalText([]byte(f[3])); err != nil {
				w.t.Fatal(err)
			}
		}
		return w.try(&Create{Name: f[1], Size: size(f[2]), Policy: policy, BlockSizeShift: 22})
	case "snapshot":
		cmd := &Snapshot{Name: f[1], Tag: f[2], IfToken: w.tokenOf(f[1], token)}
		if at, ok := strings.CutPrefix(f[3], "expires="); ok {
			cmd.Expires = start.Add(time.Duration(size(at)) * time.Minute)
		}
		return w.try(cmd)
	case "clone":
		return w.try(&Clone{Source: f[1], Snapshot: f[2], Name: f[3], Size: size(f[4])})
	case "clone-working":
		return w.try(&Snapshot{Name: f[1], Clone: &CloneOf{Name: f[2], Size: size(f[3])}, IfToken: w.tokenOf(f[1], token)})
	case "delete":
		return w.try(&Delete{Name: f[1], RecycleVIDs: w.recycle, IfToken: w.tokenOf(f[1], token)})
	case "delete-snapshot":
		return w.try(&DeleteSnapshot{Name: f[1], Snapshot: f[2], RecycleVIDs: w.recycle})
	case "rollback":
		return w.try(&Rollback{Name: f[1], Snapshot: f[2], IfToken: token, RecycleVIDs: w.recycle})
	case "resize":
		return w.try(&Resize{Name: f[1], Size: size(f[2])})
	case "rename":
		return w.try(&Rename{Name: f[1], NewName: f[2]})
	case "setattr":
		return w.try(&SetAttr{Name: f[1], Key: f[2], Value: []byte(f[3]), Exclusive: f[4] == "-x"})
	case "delattr":
		return w.try(&SetAttr{Name: f[1], Key: f[2], Delete: true})
	case "setattr@":
		return w.try(&SetAttr{Name: f[1], Snapshot: f[2], Key: f[3], Value: []byte(f[4])})
	case "open":
		return answer("", w.open(f[1]))
	case "close":
		return answer("", w.close(f[1]))
	case "write":
		return answer("", w.write(f[1]))
	}
	return w.rarer(f)
}

// rarer are the commands that operators type less often.
func (w *world) rarer(f []string) string {
	switch f[0] {
	case "group":
		cmd := &SnapshotGroup{}
		for _, name := range f[1:] {
			if name != "" {
				cmd.Members = append(cmd.Members, Snapshot{Name: name, Tag: "group", IfToken: w.tokenOf(name, 0)})
			}
		}
		return w.try(cmd)
	case "alter":
		return w.try(&AlterPolicy{Name: f[1], Policy: sheepdog.Policy{Copies: uint8(size(f[2]))}, IfToken: w.tokenOf(f[1], 0)})
	case "flatten":
		return w.try(w.flatten(f[1]))
	case "trash":
		return w.try(&SetTrash{KeepSeconds: size(f[1])})
	case "untrash":
		return w.try(&Untrash{VID: w.trashed(f[1]), Name: f[2]})
	case "purge":
		return w.try(&Purge{VID: w.trashed(f[1]), RecycleVIDs: w.recycle})
	case "expire":
		w.index = size(f[1])
		return w.try(&Expire{RecycleVIDs: w.recycle})
	}
	w.t.Fatalf("unknown line %q", f)
	return ""
}

func answer(text string, err error) string {
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	if text == "" {
		return ""
	}
	return text + "\n"
}

// try runs a command and tells its result.
func (w *world) try(cmd Command) string {
	result, err := w.run(cmd)
	if err != nil {
		return answer("", err)
	}
	switch cmd := cmd.(type) {
	case *Create, *Clone:
		r := decode[Created](w.t, result)
		return fmt.Sprintf("id %s, layer %d of family %d\n", r.VID, r.Layer, r.Family)
	case *Snapshot:
		r := decode[Snapped](w.t, result)
		if r.Clone != nil {
			return fmt.Sprintf("id %s, layer %d of family %d on layer %d; %s: id %s, layer %d\n",
				r.Clone.VID, r.Clone.Layer, r.Clone.Family, r.Layer, cmd.Name, r.NewVID, r.Working)
		}
		return fmt.Sprintf("snapshot %d: id %s, layer %d; %s: id %s, layer %d\n",
			r.SnapID, r.VID, r.Layer, cmd.Name, r.NewVID, r.Working)
	case *SnapshotGroup:
		var out strings.Builder
		for _, r := range decode[SnappedGroup](w.t, result).Snapped {
			fmt.Fprintf(&out, "snapshot %d: id %s, layer %d, then id %s, layer %d\n", r.SnapID, r.VID, r.Layer, r.NewVID, r.Working)
		}
		return out.String()
	case *AlterPolicy:
		r := decode[Altered](w.t, result)
		return fmt.Sprintf("layer %d of family %d, moving: %t\n", r.Layer, r.Family, r.Moving)
	case *Rollback:
		r := decode[RolledBack](w.t, result)
		return fmt.Sprintf("id %s, layer %d of family %d, token %d\n", r.VID, r.Layer, r.Family, r.Token)
	}
	return ""
}

func size(s string) uint64 {
	if s == "" {
		return 0
	}
	shift := map[byte]int{'M': 20, 'G': 30, 'T': 40, 'P': 50}[s[len(s)-1]]
	n, err := strconv.ParseUint(strings.TrimRight(s, "MGTP"), 10, 64)
	if err != nil {
		panic(err)
	}
	return n << shift
}

func showList(entries []Entry) string {
	var out strings.Builder
	for _, e := range entries {
		flag := " "
		if e.SnapID > 0 {
			flag = "s"
		} else if e.IsClone {
			flag = "c"
		}
		fmt.Fprintf(&out, "%s %-6s %d  %6d MB  %6s  %-3s layer %d of family %d  %s\n",
			flag, e.Name, e.SnapID, e.Size>>20, e.VID, e.Policy, e.Layer, e.Family, e.Tag)
	}
	return strings.ReplaceAll(out.String(), "  \n", "\n")
}

func (w *world) showTrash() string {
	var out strings.Builder
	for _, t := range w.d.Trash() {
		fmt.Fprintf(&out, "%s %s, layer %d, for %v\n", t.Name, t.VID, t.Layer, t.Expires.Sub(t.Deleted))
	}
	return out.String()
}

func (w *world) showLayers() string {
	var out strings.Builder
	for _, l := range w.layers() {
		fmt.Fprintf(&out, "%d: family %d", l.ID, l.Family)
		if l.Parent != 0 {
			fmt.Fprintf(&out, ", on %d", l.Parent)
		}
		if l.Base != 0 {
			fmt.Fprintf(&out, ", base %d", l.Base)
		}
		if !l.Written {
			out.WriteString(", empty")
		}
		if l.Frozen {
			out.WriteString(", frozen")
		}
		if len(l.Absorbed) > 0 {
			fmt.Fprintf(&out, ", absorbed %v", l.Absorbed)
		}
		out.WriteString("\n")
	}
	return out.String()
}

func showTree(branches []*Branch, indent string) string {
	var out strings.Builder
	for _, b := range branches {
		label := "(you are here)"
		if b.SnapID > 0 {
			label = fmt.Sprintf("snapshot %d", b.SnapID)
		}
		fmt.Fprintf(&out, "%s%s %s\n", indent, b.Name, label)
		out.WriteString(showTree(b.Children, indent+"  "))
	}
	return out.String()
}

func (w *world) showLocks() string {
	var out strings.Builder
	for _, l := range w.d.Locks() {
		fmt.Fprintf(&out, "%s %s: token %d, node %s\n", l.Name, l.VID, l.Token, l.Coordinator.Node)
	}
	return out.String()
}

// showChain follows the whole way down, family by family.
func (w *world) showChain(target string) string {
	layer, err := w.layerOf(target)
	if err != nil {
		return answer("", err)
	}
	var parts []string
	for layer != 0 {
		chain, ok := w.d.Chain(layer)
		if !ok {
			w.t.Fatalf("no chain for layer %d", layer)
		}
		parts = append(parts, strings.Trim(fmt.Sprint(chain), "[]"))
		layer, _, _ = w.d.BaseOf(layer)
	}
	return strings.Join(parts, " | ") + "\n"
}

func (w *world) layers() []*Layer {
	var out []*Layer
	w.d.state.Load().layers.all(func(_ sheepdog.LayerID, n *layerNode) {
		if l := n.layer.Load(); l != nil {
			out = append(out, l)
		}
	})
	slices.SortFunc(out, func(a, b *Layer) int { return int(a.ID) - int(b.ID) })
	return out
}
