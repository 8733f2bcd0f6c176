package sheepdog

import (
	"context"
	"net"
)

// Network is where a node listens and dials: the host's, or a simulated one.
type Network interface {
	Listen(addr string) (net.Listener, error)
	ListenPacket(addr string) (net.PacketConn, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Views is how packages that do not decide membership follow it.
type Views interface {
	// View is the newest committed view; nil before the first.
	View() *View
	// Changed is closed when a view newer than v is published.
	Changed(v *View) <-chan struct{}
}
