package show

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sheepdog/api"
)

// TreeStyle selects how Tree shows labels.
type TreeStyle struct {
	Bold bool // the working VDI, for terminals
	Zone *time.Location
}

// Tree is `dog vdi tree`: one line per VDI, and a branch for every snapshot
// that has several children of the same name. A VDI whose parent is gone or has
// another name (a clone) starts a line of its own.
func Tree(vdis []api.VDI, style TreeStyle) string {
	t := &tree{style: style, children: make(map[*api.VDI][]*api.VDI)}
	byID := make(map[api.VID]*api.VDI, len(vdis))
	for i := range vdis {
		byID[vdis[i].ID] = &vdis[i]
	}
	var roots []*api.VDI
	for i := range vdis {
		v := &vdis[i]
		if parent := byID[v.ParentID]; parent != nil && parent != v && parent.Snapshot && parent.Name == v.Name {
			t.children[parent] = append(t.children[parent], v)
			continue
		}
		roots = append(roots, v)
	}
	slices.SortStableFunc(roots, byVID)
	for _, list := range t.children {
		slices.SortStableFunc(list, byVID)
	}
	for _, v := range roots {
		t.out.WriteString(v.Name + "---")
		t.line(v, utf8.RuneCountInString(v.Name)+3, nil)
	}
	return t.out.String()
}

func byVID(a, b *api.VDI) int { return cmp.Compare(a.ID, b.ID) }

type tree struct {
	style    TreeStyle
	children map[*api.VDI][]*api.VDI
	out      strings.Builder
}

// line writes v and all below it; width is the column where v begins, and
// bars are the columns in which a branch further up goes on below.
func (t *tree) line(v *api.VDI, width int, bars []int) {
	for {
		label := t.label(v)
		t.out.WriteString(t.emphasis(v, label))
		width += len(label)
		children := t.children[v]
		switch len(children) {
		case 0:
			t.out.WriteString("\n")
			return
		case 1:
			t.out.WriteString("---")
			width += 3
			v = children[0]
			continue
		}
		t.branch(children, width, bars)
		return
	}
}

func (t *tree) branch(children []*api.VDI, width int, bars []int) {
	for i, child := range children {
		last := i == len(children)-1
		switch {
		case i == 0:
			t.out.WriteString("-+-")
		case last:
			t.indent(width+1, bars)
			t.out.WriteString("`-")
		default:
			t.indent(width+1, bars)
			t.out.WriteString("|-")
		}
		below := bars
		if !last {
			below = append(slices.Clone(bars), width+1)
		}
		t.line(child, width+3, below)
	}
}

func (t *tree) indent(width int, bars []int) {
	row := []byte(strings.Repeat(" ", width))
	for _, col := range bars {
		row[col] = '|'
	}
	t.out.Write(row)
}

func (t *tree) label(v *api.VDI) string {
	if !v.Snapshot {
		return "(you are here)"
	}
	return "[" + v.Created.In(t.style.Zone).Format(minute) + "]"
}

func (t *tree) emphasis(v *api.VDI, label string) string {
	if !v.Snapshot && t.style.Bold {
		return "\x1b[1m" + label + "\x1b[m"
	}
	return label
}
