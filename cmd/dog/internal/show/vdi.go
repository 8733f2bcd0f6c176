package show

import (
	"fmt"
	"strings"
	"time"

	"sheepdog/api"
)

// ListStyle selects what VDIs shows.
type ListStyle struct {
	Raw      bool
	Physical bool // more columns: space on all disks together
	Zone     *time.Location
}

const minute = "2006-01-02 15:04"

// VDIs is `dog vdi list`.
func VDIs(vdis []api.VDI, style ListStyle) string {
	var b strings.Builder
	if !style.Raw {
		b.WriteString("  Name        Id    Size    Used  Shared    Creation time   VDI id  Copies  Tag   Block Size Shift")
		if style.Physical {
			b.WriteString("  Physical Exclusive Shared phys.")
		}
		b.WriteString("\n")
	}
	for i := range vdis {
		v := &vdis[i]
		if style.Raw {
			rawVDI(&b, v)
		} else {
			vdiRow(&b, v, style.Zone)
		}
		physical(&b, v, style)
		b.WriteString("\n")
	}
	return b.String()
}

func vdiRow(b *strings.Builder, v *api.VDI, zone *time.Location) {
	fmt.Fprintf(b, "%c %-8s %5d %7s %7s %7s %s  %7s %6s %13s %3d", flag(v, ' '), v.Name, v.SnapshotID, Size(v.SizeBytes),
		Size(v.UsedBytes), Size(v.SharedBytes), v.Created.In(zone).Format(minute), v.ID, v.Copies, v.Tag, v.BlockSizeShift)
}

func rawVDI(b *strings.Builder, v *api.VDI) {
	fmt.Fprintf(b, "%c %s %d %d %d %d %d %s %s %s %d", flag(v, '='), escape(v.Name), v.SnapshotID, v.SizeBytes,
		v.UsedBytes, v.SharedBytes, v.Created.Unix(), v.ID, v.Copies, escape(v.Tag), v.BlockSizeShift)
}

func physical(b *strings.Builder, v *api.VDI, style ListStyle) {
	if !style.Physical {
		return
	}
	widths := [...]int{9, 9, 12}
	for i, n := range [...]*uint64{v.PhysicalBytes, v.ExclusiveBytes, v.SharedPhysicalBytes} {
		if style.Raw {
			fmt.Fprintf(b, " %s", known(n, func(n uint64) string { return fmt.Sprint(n) }))
		} else {
			fmt.Fprintf(b, " %*s", widths[i], known(n, Size))
		}
	}
}

// known is a number in words, or a dash where there is none.
func known(n *uint64, words func(uint64) string) string {
	if n == nil {
		return "-"
	}
	return words(*n)
}

// flag is the first column: s for a snapshot, c for a clone.
func flag(v *api.VDI, ordinary rune) rune {
	switch {
	case v.Snapshot:
		return 's'
	case v.Clone:
		return 'c'
	}
	return ordinary
}

// escape puts a backslash before blanks and backslashes, so that raw lines can
// be split at blanks.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, " ", `\ `).Replace(s)
}
