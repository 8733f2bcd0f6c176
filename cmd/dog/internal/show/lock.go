package show

import (
	"fmt"
	"net"
	"strings"

	"sheepdog/api"
)

// Locks is `dog vdi lock list`.
func Locks(locks []api.Lock, raw bool) string {
	var b strings.Builder
	if !raw {
		b.WriteString("  Name         Id  VDI id  Tag            Owner node(s)\n")
	}
	for i := range locks {
		l := &locks[i]
		if raw {
			fmt.Fprintf(&b, "%s 0 %s  %s\n", escape(l.Name), l.ID, l.Addr)
			continue
		}
		fmt.Fprintf(&b, "  %-8s %5d %7s %13s   %s\n", l.Name, 0, l.ID, "", owner(l.Addr))
	}
	return b.String()
}

// owner is an address as the list of locks has it.
func owner(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return "(gone)"
	case strings.Contains(host, ":"):
		return "IPv6 ip:" + host + " port:" + port
	}
	return "IPv4 ip:" + host + " port:" + port
}
