package show

import (
	"fmt"
	"strings"

	"sheepdog/api"
)

// Nodes is `dog node list`.
func Nodes(nodes []api.Node, raw bool) string {
	var b strings.Builder
	if !raw {
		b.WriteString("  Id   Host:Port         V-Nodes       Zone\n")
	}
	for i, n := range nodes {
		if raw {
			fmt.Fprintf(&b, "%d %s %d %d\n", i, n.Addr, n.VNodes, n.Zone)
			continue
		}
		fmt.Fprintf(&b, "%4d   %-20s\t%2d%11d\n", i, n.Addr, n.VNodes, n.Zone)
	}
	return b.String()
}

// Capacities is `dog node info`. Nodes that did not answer have no row; their
// numbers stay those of `dog node list`.
func Capacities(c *api.Capacities, raw bool) string {
	var b strings.Builder
	var used, free uint64
	if !raw {
		b.WriteString("Id\tSize\tUsed\tAvail\tUse%\n")
	}
	for i, n := range c.Nodes {
		if n.Error != "" {
			continue
		}
		used += n.UsedBytes
		free += n.FreeBytes
		size := n.UsedBytes + n.FreeBytes
		if raw {
			fmt.Fprintf(&b, "%d %d %d %d %d%%\n", i, size, n.UsedBytes, n.FreeBytes, percent(n.UsedBytes, size))
			continue
		}
		fmt.Fprintf(&b, "%2d\t%s\t%s\t%s\t%3d%%\n", i, Size(size), Size(n.UsedBytes), Size(n.FreeBytes), percent(n.UsedBytes, size))
	}
	size := used + free
	if raw {
		fmt.Fprintf(&b, "Total %d %d %d %d%% %d\n", size, used, free, percent(used, size), c.VirtualBytes)
		return b.String()
	}
	fmt.Fprintf(&b, "Total\t%s\t%s\t%s\t%3d%%\n\nTotal virtual image size\t%s\n", Size(size), Size(used), Size(free), percent(used, size), Size(c.VirtualBytes))
	return b.String()
}

// Recovery is `dog node recovery`; number is the position of a node in
// `dog node list`.
func Recovery(nodes []api.NodeRecovery, number func(*api.Node) int, raw bool) string {
	var b strings.Builder
	if !raw {
		b.WriteString("Nodes In Recovery:\n  Id   Host:Port         V-Nodes       Zone       Progress\n")
	}
	for i := range nodes {
		n := &nodes[i]
		if raw {
			fmt.Fprintf(&b, "%d %s %d %d %d %d\n", number(&n.Node), n.Addr, n.VNodes, n.Zone, n.FinishedObjects, n.TotalObjects)
			continue
		}
		fmt.Fprintf(&b, "%4d   %-20s%5d%11d%11.1f%%\n", number(&n.Node), n.Addr, n.VNodes, n.Zone, progress(n))
	}
	return b.String()
}

// progress is in percent; a node that is listed is never shown as done.
func progress(n *api.NodeRecovery) float64 {
	if n.TotalPartitions > 0 { // known from the start, where objects are counted as they are met
		return min(float64(n.TotalPartitions-n.PartitionsLeft)/float64(n.TotalPartitions)*100, 99.9)
	}
	if n.TotalObjects == 0 {
		return 0
	}
	return min(float64(n.FinishedObjects)/float64(n.TotalObjects)*100, 99.9)
}
