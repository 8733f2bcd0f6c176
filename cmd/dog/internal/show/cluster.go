package show

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sheepdog/api"
)

// ClusterStyle selects what Cluster shows.
type ClusterStyle struct {
	Raw     bool
	Verbose bool // store, strategy and mode
	Diff    bool // changes between epochs instead of members
	Zone    *time.Location
}

// Cluster is `dog cluster info`.
func Cluster(c *api.Cluster, style ClusterStyle) string {
	var b strings.Builder
	if !style.Raw {
		b.WriteString("Cluster status: ")
	}
	b.WriteString(clusterState(c) + "\n")
	if style.Verbose && c.State != api.StateUnformatted {
		strategy := "auto"
		if c.Config.FixedVNodes {
			strategy = "fixed"
		}
		fmt.Fprintf(&b, "Cluster store: plain with %s redundancy policy\n", c.Config.Policy)
		fmt.Fprintf(&b, "Cluster vnodes strategy: %s\nCluster vnode mode: node\n", strategy)
	} else {
		b.WriteString("\n")
	}
	if c.State == api.StateUnformatted || c.State == api.StateShutdown {
		return b.String()
	}
	if c.Config.Created.IsZero() && len(c.History) == 0 {
		return b.String() // a node that waits for the others does not know yet
	}
	if !style.Raw {
		fmt.Fprintf(&b, "Cluster created at %s\n\n", c.Config.Created.In(style.Zone).Format(time.ANSIC))
		b.WriteString("Epoch Time           Version [Host:Port:V-Nodes,,,]\n")
	}
	for i, rec := range c.History {
		members := memberList(rec.Members)
		if style.Diff {
			members = "[formated]"
			if i+1 < len(c.History) {
				members = memberDiff(c.History[i+1].Members, rec.Members)
			}
		}
		if style.Raw {
			fmt.Fprintf(&b, "%d %d %s\n", rec.Time.Unix(), rec.Epoch, members)
			continue
		}
		fmt.Fprintf(&b, "%s %6d %s\n", rec.Time.In(style.Zone).Format(time.DateTime), rec.Epoch, members)
	}
	return b.String()
}

func clusterState(c *api.Cluster) string {
	switch c.State {
	case api.StateRunning:
		if c.Config.RecoveryDisabled {
			return "running, auto-recovery disabled"
		}
		return "running, auto-recovery enabled"
	case api.StateUnformatted:
		return "Waiting for cluster to be formatted"
	case api.StateWaiting:
		return "Waiting for other nodes to join cluster"
	case api.StateHalted:
		return "IO has halted as there are not enough living nodes"
	case api.StateShutdown:
		return "System is shutting down"
	}
	return string(c.State)
}

func memberList(members []api.EpochMember) string {
	list := make([]string, 0, len(members))
	for _, m := range members {
		list = append(list, fmt.Sprintf("%s:%d", m.Addr, m.VNodes))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// memberDiff lists who left and who came between two epochs.
func memberDiff(before, after []api.EpochMember) string {
	var list []string
	has := func(members []api.EpochMember, addr string) bool {
		return slices.ContainsFunc(members, func(m api.EpochMember) bool { return m.Addr == addr })
	}
	for _, m := range before {
		if !has(after, m.Addr) {
			list = append(list, "-"+m.Addr)
		}
	}
	for _, m := range after {
		if !has(before, m.Addr) {
			list = append(list, "+"+m.Addr)
		}
	}
	return "[" + strings.Join(list, ", ") + "]"
}
