package show

import (
	"fmt"
	"strings"
	"time"

	"sheepdog/api"
)

// Trash is `dog vdi trash list`.
func Trash(t *api.TrashList, raw bool, zone *time.Location) string {
	var b strings.Builder
	if !raw {
		b.WriteString("  Name      VDI id    Size     Deleted           Expires\n")
	}
	for i := range t.VDIs {
		v := &t.VDIs[i]
		if raw {
			fmt.Fprintf(&b, "%s %s %d %d %d\n", escape(v.Name), v.ID, v.SizeBytes, v.Deleted.Unix(), v.Expires.Unix())
			continue
		}
		fmt.Fprintf(&b, "  %-8s  %6s %7s  %s  %s\n", v.Name, v.ID, Size(v.SizeBytes), v.Deleted.In(zone).Format(minute), v.Expires.In(zone).Format(minute))
	}
	return b.String()
}
