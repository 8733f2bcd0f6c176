package show

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"sheepdog/api"
)

// Overall is one screen about a cluster, and its JSON.
type Overall struct {
	Version    int                `json:"version"`
	At         time.Time          `json:"at"`
	Health     string             `json:"health"` // ok, warning or error
	Reasons    []Reason           `json:"reasons"`
	Cluster    api.Cluster        `json:"cluster"` // without its history
	Nodes      []api.Node         `json:"nodes"`
	Space      *api.Capacities    `json:"space,omitempty"`
	VDIs       int                `json:"vdis"`
	Snapshots  int                `json:"snapshots"`
	Recovering []api.NodeRecovery `json:"recovering,omitempty"`
	// SecondsLeft is when recovery will end, at its present pace; 0: not known.
	SecondsLeft uint64     `json:"secondsLeft,omitempty"`
	InUse       []api.Lock `json:"inUse,omitempty"` // VDIs with clients, and their gateway
}

// Reason is something wrong, and what to type next.
type Reason struct {
	Level string `json:"level"` // warning or error
	Text  string `json:"text"`
	Next  string `json:"next,omitempty"` // a command
}

// Count takes over how many VDIs and snapshots there are.
func (s *Overall) Count(vdis []api.VDI) {
	for i := range vdis {
		if vdis[i].Snapshot {
			s.Snapshots++
		} else {
			s.VDIs++
		}
	}
}

// fullPercent is when a node's space is worth a warning.
const fullPercent = 85

// Judged finds what is wrong; last, the screen before, tells the pace.
func (s *Overall) Judged(last *Overall) *Overall {
	s.Reasons = []Reason{}
	add := func(level, next, format string, args ...any) {
		s.Reasons = append(s.Reasons, Reason{Level: level, Text: fmt.Sprintf(format, args...), Next: next})
	}
	switch s.Cluster.State {
	case api.StateRunning:
	case api.StateUnformatted:
		add("error", "dog cluster format", "the cluster is not formatted")
	case api.StateWaiting:
		add("error", "dog cluster info", "the cluster waits for nodes that it needs; start them")
	case api.StateHalted:
		add("error", "dog node list", "too few nodes are alive for the copies that writes need; start them or add some")
	default:
		add("error", "dog cluster info", "the cluster is in state %s", s.Cluster.State)
	}
	for _, w := range s.Cluster.Warnings {
		add("warning", "dog cluster info", "%s", w)
	}
	s.judgeSpace(add)
	if n := len(s.Recovering); n > 0 {
		add("warning", "dog node recovery", "%d nodes are recovering", n)
	}
	if s.Cluster.Config.RecoveryDisabled {
		add("warning", "dog cluster recover enable", "recovery is paused")
	}
	s.Health = "ok"
	for _, r := range s.Reasons {
		if s.Health != "error" {
			s.Health = r.Level
		}
	}
	s.pace(last)
	return s
}

func (s *Overall) judgeSpace(add func(level, next, format string, args ...any)) {
	if s.Space == nil {
		return
	}
	for _, n := range s.Space.Nodes {
		if n.Error != "" {
			add("error", "dog node list", "node %s does not answer: %s", n.Addr, n.Error)
		} else if p := percent(n.UsedBytes, n.UsedBytes+n.FreeBytes); p >= fullPercent {
			add("warning", "dog df", "node %s is %d %% full; delete something, or add nodes or disks", n.Addr, p)
		}
	}
}

// done sums what has been recovered, and what there is.
func (s *Overall) done() (finished, total uint64) {
	for _, n := range s.Recovering {
		finished += n.FinishedObjects
		total += n.TotalObjects
	}
	return finished, total
}

func (s *Overall) pace(last *Overall) {
	for _, n := range s.Recovering {
		if n.SecondsLeft != nil {
			s.SecondsLeft = max(s.SecondsLeft, uint64(*n.SecondsLeft)+1)
		}
	}
	if s.SecondsLeft > 0 {
		return // the nodes know better
	}
	if last == nil || !s.At.After(last.At) {
		return
	}
	then, _ := last.done()
	now, total := s.done()
	if now <= then || total <= now {
		return
	}
	rate := float64(now-then) / s.At.Sub(last.At).Seconds()
	s.SecondsLeft = uint64(float64(total-now)/rate) + 1
}

// Status is `dog status`.
func Status(s *Overall) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s%s\n", name, fmt.Sprintf(format, args...))
	}
	line("Health", "%s", s.Health)
	for _, r := range s.Reasons {
		line("", "%s: %s (%s)", r.Level, r.Text, r.Next)
	}
	line("Cluster", "%s, epoch %d, %s copies", clusterState(&s.Cluster), s.Cluster.Epoch, s.Cluster.Config.Policy)
	zones, storing := make(map[uint32]bool), 0
	for _, n := range s.Nodes {
		if n.VNodes > 0 {
			zones[uint32(n.Zone)] = true
			storing++
		}
	}
	line("Nodes", "%d, %d of them store, in %d zones", len(s.Nodes), storing, len(zones))
	if s.Space == nil {
		return b.String()
	}
	used, free := sum(s.Space)
	line("Space", "%s raw, %s used (%d%%)", Size(used+free), Size(used), percent(used, used+free))
	line("VDIs", "%d with %s, %d snapshots", s.VDIs, Size(s.Space.VirtualBytes), s.Snapshots)
	line("Recovery", "%s", s.recovery())
	line("In use", "%d VDIs", len(s.InUse))
	return b.String()
}

func (s *Overall) recovery() string {
	if len(s.Recovering) == 0 {
		return "none"
	}
	done, total := s.done()
	text := fmt.Sprintf("%d of %d objects on %d nodes", done, total, len(s.Recovering))
	if s.SecondsLeft > 0 {
		text += ", " + (time.Duration(s.SecondsLeft) * time.Second).String() + " left"
	}
	return text
}

func sum(c *api.Capacities) (used, free uint64) {
	for _, n := range c.Nodes {
		used += n.UsedBytes
		free += n.FreeBytes
	}
	return used, free
}

// FS is the space of a cluster and its JSON, in bytes.
type FS struct {
	Version          int                `json:"version"`
	RawBytes         uint64             `json:"rawBytes"` // of all nodes
	UsedBytes        uint64             `json:"usedBytes"`
	FreeBytes        uint64             `json:"freeBytes"`
	UsableBytes      uint64             `json:"usableBytes"` // what can still be written, at the default redundancy
	ProvisionedBytes uint64             `json:"provisionedBytes"`
	AllocatedBytes   uint64             `json:"allocatedBytes"` // objects of VDIs and snapshots times their size, one replica
	Nodes            []api.NodeCapacity `json:"nodes"`
	VDIs             []VDISpace         `json:"vdis"`
}

// VDISpace is what a VDI or snapshot takes on all disks together, in bytes; see
// api.VDI.
type VDISpace struct {
	Name                string  `json:"name"`
	SnapshotID          uint32  `json:"snapshotID"`
	Tag                 string  `json:"tag,omitempty"`
	ExclusiveBytes      *uint64 `json:"exclusiveBytes,omitempty"`
	SharedPhysicalBytes *uint64 `json:"sharedPhysicalBytes,omitempty"`
}

// Filesystem sums the space of a cluster.
func Filesystem(cl *api.Cluster, c *api.Capacities, vdis []api.VDI) *FS {
	f := &FS{Version: api.Version, ProvisionedBytes: c.VirtualBytes, Nodes: c.Nodes, VDIs: []VDISpace{}}
	f.UsedBytes, f.FreeBytes = sum(c)
	f.RawBytes = f.UsedBytes + f.FreeBytes
	f.UsableBytes = c.Usable(cl.Config.Policy)
	for i := range vdis {
		v := &vdis[i]
		f.AllocatedBytes += v.UsedBytes
		f.VDIs = append(f.VDIs, VDISpace{v.Name, v.SnapshotID, v.Tag, v.ExclusiveBytes, v.SharedPhysicalBytes})
	}
	return f
}

// Text is `dog df`.
func (f *FS) Text(raw bool) string {
	if raw {
		return fmt.Sprintf("%d %d %d %d %d %d\n", f.RawBytes, f.UsedBytes, f.FreeBytes, f.UsableBytes, f.ProvisionedBytes, f.AllocatedBytes)
	}
	var b strings.Builder
	b.WriteString("Raw\tUsed\tFree\tUsable\tProvisioned\tAllocated\n")
	fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\t%s\n\n", Size(f.RawBytes), Size(f.UsedBytes), Size(f.FreeBytes), Size(f.UsableBytes), Size(f.ProvisionedBytes), Size(f.AllocatedBytes))
	b.WriteString(Capacities(&api.Capacities{Nodes: f.Nodes, VirtualBytes: f.ProvisionedBytes}, false))
	if len(f.VDIs) > 0 {
		b.WriteString("\nExclusive\tShared\tVDI\n")
	}
	for _, v := range f.VDIs {
		name := v.Name
		if v.SnapshotID > 0 {
			name += "@" + cmp.Or(v.Tag, fmt.Sprint(v.SnapshotID))
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\n", known(v.ExclusiveBytes, Size), known(v.SharedPhysicalBytes, Size), name)
	}
	return b.String()
}
