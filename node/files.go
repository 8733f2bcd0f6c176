package node

import (
	"fmt"

	"golang.org/x/sys/unix"

	"sheepdog/nbd"
)

// clientLimits are how many NBD clients may be attached, and how many may be on their
// way to that, where the process may have so many files open. A node without a file
// left neither hears its peers nor opens what it stores, and all guests wait for it;
// so its own guests get less than half of them.
func clientLimits(files uint64) (clients, greetings int) {
	return int(min(nbd.DefaultConnections, max(files/3, 1))), int(min(nbd.DefaultHandshakes, max(files/12, 1)))
}

// minFiles is what a node needs for its store, its peers and a few clients.
const minFiles = 256

// openFiles is how many files this process may have open, which must be enough. Go
// has raised the limit as far as it may.
func openFiles() (uint64, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	if r.Cur < minFiles {
		return 0, fmt.Errorf("this process may have only %d files open, and needs %d; raise the limit (ulimit -Hn, LimitNOFILE of systemd)", r.Cur, minFiles)
	}
	return r.Cur, nil
}
