//go:build !linux || !(amd64 || arm64)

package peer

import "net"

// rawConn is not available on this system: net.Conn does all the work.
type rawConn struct{}

func newRawConn(net.Conn) *rawConn             { return nil }
func (*rawConn) trySend([][]byte) (int, error) { return 0, nil }
func (*rawConn) Read([]byte) (int, error)      { return 0, nil }
