package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"sheepdog"
)

// HostNetwork is the host's own network: TCP and UDP with keep-alive, and
// without delay for small segments.
func HostNetwork() sheepdog.Network { return hostNetwork{} }

type hostNetwork struct{}

// Listen listens on a TCP address.
func (hostNetwork) Listen(addr string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive()}
	return lc.Listen(context.Background(), "tcp", addr)
}

// ListenPacket listens on a UDP address.
func (hostNetwork) ListenPacket(addr string) (net.PacketConn, error) {
	return net.ListenPacket("udp", addr)
}

// Dial connects to a TCP address.
func (hostNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive()}
	return d.DialContext(ctx, "tcp", addr)
}

// keepAlive has the kernel notice a host that vanished under an idle stream in
// about ten seconds; heartbeats notice it sooner where there are any.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3}
}

// Dialer opens streams of a kind to the ports of other nodes.
type Dialer struct {
	Network sheepdog.Network
	// Cluster is the id to claim and to expect; zero while there is none.
	Cluster func() sheepdog.ClusterID
}

// Dial connects, exchanges preambles and returns the stream. It waits no longer
// than ctx. The error wraps sheepdog.ErrWrongCluster if the far end belongs to
// another cluster.
func (d Dialer) Dial(ctx context.Context, kind Kind, addr string) (net.Conn, error) {
	conn, _, err := d.dial(ctx, kind, addr)
	if err != nil {
		return nil, fmt.Errorf("connect %s to %s: %w", kind, addr, err)
	}
	return conn, nil
}

// dial also tells the far end's cluster.
func (d Dialer) dial(ctx context.Context, kind Kind, addr string) (net.Conn, sheepdog.ClusterID, error) {
	conn, err := d.Network.Dial(ctx, addr)
	if err != nil {
		return nil, sheepdog.ClusterID{}, err
	}
	stop := closeOnDone(ctx, conn)
	ours := preamble{kind: kind, version: sheepdog.ProtocolVersion, cluster: d.Cluster()}
	theirs, err := exchangePreambles(conn, ours)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, sheepdog.ClusterID{}, err
	}
	return conn, theirs.cluster, nil
}

// closeOnDone closes conn when ctx ends; stop reports whether it did not.
func closeOnDone(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { conn.Close() })
}

func exchangePreambles(conn net.Conn, ours preamble) (preamble, error) {
	if _, err := conn.Write(appendPreamble(nil, ours)); err != nil {
		return preamble{}, err
	}
	var answer [answerSize]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return preamble{}, err
	}
	return decodeAnswer(answer[:], ours)
}

// isTimeout reports whether err says that something took too long.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
