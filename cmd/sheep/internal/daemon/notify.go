package daemon

import (
	"fmt"
	"net"
	"os"
)

// notify tells systemd, if it has started this process with Type=notify, that
// the daemon is ready or stops. The protocol is that of sd_notify(3): one
// datagram to the socket that the environment names.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell systemd %s: %w", state, err)
	}
	return nil
}
