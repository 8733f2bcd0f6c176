package show

import (
	"fmt"
	"strings"
	"time"

	"sheepdog/api"
)

// Stats is `dog node stat`; with last, the counters of d before, it has rates.
func Stats(s, last *api.Stats, d time.Duration, raw bool) string {
	var b strings.Builder
	if !raw {
		b.WriteString("Request\tActive\tTotal\tWrite\tRead\tRemove\tFlush\tAll WR\tAll RD")
		if last != nil {
			b.WriteString("\tWRBW\tRDBW\tRPS")
		}
		b.WriteString("\n")
	}
	if last == nil {
		last, d = &api.Stats{}, 0
	}
	statRow(&b, "Client", &s.Client, &last.Client, d, raw)
	statRow(&b, "Peer", &s.Peer, &last.Peer, d, raw)
	return b.String()
}

func statRow(b *strings.Builder, name string, s, last *api.RequestStats, d time.Duration, raw bool) {
	sep, size := "\t", Size
	if raw {
		sep, size = " ", func(n uint64) string { return fmt.Sprint(n) }
	}
	cells := []string{name}
	for _, n := range []uint64{s.Active, s.Total, s.Write, s.Read, s.Remove, s.Flush} {
		cells = append(cells, fmt.Sprint(n))
	}
	cells = append(cells, size(s.WrittenBytes), size(s.ReadBytes))
	if d > 0 {
		per := func(now, then uint64) uint64 { return uint64(float64(now-min(then, now)) / d.Seconds()) }
		unit := "/s"
		if raw {
			unit = ""
		}
		cells = append(cells, size(per(s.WrittenBytes, last.WrittenBytes))+unit, size(per(s.ReadBytes, last.ReadBytes))+unit, fmt.Sprint(per(s.Total, last.Total)))
	}
	b.WriteString(strings.Join(cells, sep) + "\n")
}

// unlessOK is the state of a disk behind its path; nothing where all is well.
func unlessOK(state string) string {
	if state == "" || state == "ok" {
		return ""
	}
	return " (" + state + ")"
}

// Disks is `dog node md info`.
func Disks(l *api.DiskList, all, raw bool) string {
	var b strings.Builder
	if !raw {
		b.WriteString("Id\tSize\tUsed\tAvail\tUse%\tPath\n")
	}
	for i := range l.Nodes {
		if all && !raw {
			fmt.Fprintf(&b, "Node %d:\n", i)
		}
		for j, disk := range l.Nodes[i].Disks {
			size := disk.UsedBytes + disk.FreeBytes
			if raw {
				fmt.Fprintf(&b, "%s %d %d %d %d %d%% %s\n", l.Nodes[i].Addr, j, size, disk.UsedBytes, disk.FreeBytes, percent(disk.UsedBytes, size), disk.Path)
				continue
			}
			fmt.Fprintf(&b, "%2d\t%s\t%s\t%s\t%3d%%\t%s%s\n", j, Size(size), Size(disk.UsedBytes), Size(disk.FreeBytes), percent(disk.UsedBytes, size), disk.Path, unlessOK(disk.State))
		}
	}
	return b.String()
}
