package show

import (
	"fmt"
	"slices"
	"strings"

	"sheepdog/api"
)

// Location is `dog vdi object location -i`.
func Location(l *api.ObjectLocation, raw bool) string {
	var b strings.Builder
	if raw {
		for _, n := range l.Nodes {
			fmt.Fprintf(&b, "%s %s %t %t\n", l.Object, n.Addr, n.Holds, slices.Contains(l.Wanted, n.Addr))
		}
		return b.String()
	}
	fmt.Fprintf(&b, "Looking for the object %s (vid 0x%s idx %d, %s copies) with %d nodes\n\n", l.Object, l.ID, l.Index, l.Copies, len(l.Nodes))
	var names []string
	for i := range l.Nodes {
		n := &l.Nodes[i]
		names = append(names, n.Addr)
		switch {
		case n.Error != "":
			fmt.Fprintf(&b, "%s cannot be asked: %s\n", n.Addr, n.Error)
		case n.Holds:
			fmt.Fprintf(&b, "%s has the object\n", n.Addr)
		default:
			fmt.Fprintf(&b, "%s doesn't have the object\n", n.Addr)
		}
	}
	b.WriteString(belongs(l.Wanted, len(names), l.Copies.Width()))
	return b.String()
}

func belongs(wanted []string, nodes, copies int) string {
	if nodes < copies {
		return fmt.Sprintf("\nBecause number of nodes (%d) is less than number of copies (%d), the object should be located at every nodes.\n", nodes, copies)
	}
	return "\nAccording to sheepdog algorithm, the object should be located at:\n" + strings.Join(wanted, " ") + "\n"
}

// InodeLocation is `dog vdi object location` without -i: what is known of a VDI
// stands in the directory, which every node has.
func InodeLocation(v *api.VDI, nodes []api.Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Looking for the inode object 0x%s with %d nodes\n\n", v.ID, len(nodes))
	var all []string
	for _, n := range nodes {
		fmt.Fprintf(&b, "%s has the object\n", n.Addr)
		all = append(all, n.Addr)
	}
	b.WriteString(belongs(all, len(nodes), 0))
	return b.String()
}

// ObjectMap is `dog vdi object map`; rows are added page by page.
func ObjectMap(objects []api.MappedObject) string {
	var b strings.Builder
	for _, o := range objects {
		fmt.Fprintf(&b, "%08d %8s\n", o.Index, o.Owner)
	}
	return b.String()
}

// ObjectMapHeader stands above them.
const ObjectMapHeader = "Index       VID\n"

// Track is `dog vdi track`.
func Track(t *api.ObjectTrack, nodes int, raw bool) string {
	var b strings.Builder
	if !raw {
		fmt.Fprintf(&b, "Tracking the object %s (the inode vid 0x%s idx %d) with %d nodes\n", t.Object, t.ID, t.Index, nodes)
	}
	for _, e := range t.Epochs {
		trackEpoch(&b, t.Object.String(), e.Epoch, t.Copies.String(), e.Addrs, raw)
	}
	return b.String()
}

// InodeTrack is the same without -i: every node of an epoch has the directory.
func InodeTrack(v *api.VDI, c *api.Cluster, nodes int, raw bool) string {
	var b strings.Builder
	if !raw {
		fmt.Fprintf(&b, "Tracking the inode object 0x%s with %d nodes\n", v.ID, nodes)
	}
	for _, e := range c.History {
		var addrs []string
		for _, m := range e.Members {
			addrs = append(addrs, m.Addr)
		}
		trackEpoch(&b, "80"+api.ObjectID{Owner: v.ID}.String()[2:], e.Epoch, fmt.Sprint(len(addrs)), addrs, raw)
	}
	return b.String()
}

func trackEpoch(b *strings.Builder, object string, epoch any, copies string, addrs []string, raw bool) {
	if raw {
		fmt.Fprintf(b, "%d %s %s\n", epoch, object, strings.Join(addrs, ","))
		return
	}
	fmt.Fprintf(b, "\nobj %s locations at epoch %d, copies = %s\n%s\n", object, epoch, copies, strings.Repeat("-", 51))
	for _, a := range addrs {
		b.WriteString(a + "\n")
	}
}
