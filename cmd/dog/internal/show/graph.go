package show

import (
	"fmt"
	"strings"
	"time"

	"sheepdog/api"
)

// Graph is `dog vdi graph`: Graphviz, an edge from every parent that still
// exists to its children, and from the root to what has none.
func Graph(vdis []api.VDI, zone *time.Location) string {
	exists := make(map[api.VID]bool, len(vdis))
	for _, v := range vdis {
		exists[v.ID] = true
	}
	var b strings.Builder
	b.WriteString("digraph G {\n  node [shape = \"box\", fontname = \"Courier\"];\n\n  \"0\" [shape = \"ellipse\", label = \"root\"];\n\n")
	for i := range vdis {
		v := &vdis[i]
		parent := v.ParentID
		if !exists[parent] || parent == v.ID {
			parent = 0
		}
		created := v.Created.In(zone)
		fmt.Fprintf(&b, "  \"%s\" -> \"%s\";\n  \"%s\" [\n    group = \"%s\",\n", parent, v.ID, v.ID, dotted(v.Name))
		fmt.Fprintf(&b, "    label = \"Name: %10s\\nTag: %11x\\nSize: %10s\\nDate: %10s\\nTime: %10s\"", dotted(v.Name), v.SnapshotID,
			Size(v.SizeBytes), created.Format(time.DateOnly), created.Format(time.TimeOnly))
		if !v.Snapshot {
			b.WriteString(",\n    color=\"red\"")
		}
		b.WriteString("\n  ];\n\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// dotted is text within quotes of Graphviz.
func dotted(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) }
