package show

import (
	"fmt"
	"strings"
	"time"

	"sheepdog/api"
)

// forceRanges is how many ranges of a VDI are shown; -o json has more.
const forceRanges = 20

// Force is `dog cluster recover force`: what is given up and what that loses.
func Force(r *api.ForceReport) string {
	var b strings.Builder
	if r.Done {
		b.WriteString("The cluster goes on without the nodes that are lost.\n")
	} else {
		b.WriteString("The cluster would go on without the nodes that are lost.\n")
	}
	fmt.Fprintf(&b, "Nodes that are here: %s\nNodes that are lost: %s\n", forceNodes(r.Survivors), forceNodes(r.Lost))
	if r.Log != nil {
		at := "at a time that is not known"
		if !r.Log.Time.IsZero() {
			at = "of " + r.Log.Time.UTC().Format(time.DateTime) + " UTC"
		}
		fmt.Fprintf(&b, "The newest log, of %s, ends at entry %d %s. What was decided after it is lost: VDIs and snapshots made or deleted since; "+
			"if nodes left or came since, any write since may be lost too.\n", r.Log.Node, r.Log.Index, at)
	}
	switch {
	case r.Partitions == 0 && len(r.Stuck) == 0:
		b.WriteString("A complete replica of all data is here: no flushed write is lost.\n")
	case r.Partitions > 0:
		fmt.Fprintf(&b, "Partitions without a complete replica: %d of %d. Of %d an older state is left, of %d nothing.\n",
			r.Partitions, r.TotalPartitions, r.Partitions-r.EmptyPartitions, r.EmptyPartitions)
	}
	for _, p := range r.Stuck {
		fmt.Fprintf(&b, "Of what is erasure coded as %s too few strips are left in places: reads of those will fail.\n", p)
	}
	if r.Partitions > 0 && len(r.VDIs) == 0 {
		b.WriteString("No VDI or snapshot has data there.\n")
	}
	for i := range r.VDIs {
		forceVDI(&b, &r.VDIs[i])
	}
	return b.String()
}

func forceNodes(nodes []api.Node) string {
	if len(nodes) == 0 {
		return "none"
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		if names[i] = n.Addr; n.Addr == "" {
			names[i] = n.ID.String()
		}
	}
	return strings.Join(names, ", ")
}

func forceVDI(b *strings.Builder, d *api.DamagedVDI) {
	what := "VDI " + d.Name
	if d.SnapshotID != 0 {
		what = fmt.Sprintf("snapshot %s@%d", d.Name, d.SnapshotID)
		if d.Tag != "" {
			what += " (" + d.Tag + ")"
		}
	}
	fmt.Fprintf(b, "%s may have lost data in %s:\n", what, Size(d.Bytes))
	for i, p := range d.Ranges {
		if i == forceRanges {
			fmt.Fprintf(b, "  and %d more ranges; see -o json\n", len(d.Ranges)-i+d.MoreRanges)
			break
		}
		state := "zeros"
		switch {
		case p.Fails:
			state = "reads fail where strips are missing"
		case p.Old:
			state = "an older state"
		}
		fmt.Fprintf(b, "  bytes %d to %d: %s\n", p.Offset, p.Offset+p.Length-1, state)
	}
}
