package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"sheepdog"
)

// Reason says how a connection ended.
type Reason uint8

const (
	Refused          Reason = iota + 1 // nobody listens there: the process is gone
	Reset                              // the far end hung up: its process probably died
	Silent                             // nothing was heard, or read, for too long
	WrongNode                          // another node or incarnation answered
	WrongCluster                       // the far end belongs to another cluster
	Garbled                            // what arrived makes no sense
	ClosedHere                         // this node closed it
	DialFailed                         // any other failure to connect
	WrongVersion                       // the far end speaks another version
	reasonLast       = WrongVersion
	unknownReasonStr = "broken"
)

func (r Reason) String() string {
	names := [...]string{"", "refused", "reset", "silent", "wrong node", "wrong cluster", "garbled", "closed", "dial failed", "wrong version"}
	if r == 0 || r > reasonLast {
		return unknownReasonStr
	}
	return names[r]
}

// BrokenError is the end of a connection, or of the attempt to make one. It
// wraps sheepdog.ErrUnreachable, or sheepdog.ErrWrongCluster where that is the
// reason, and sheepdog.ErrClosed where this node closed the connection.
type BrokenError struct {
	Node   sheepdog.NodeID // 0 if it was not known
	Addr   string
	Reason Reason
	Cause  error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("node %s at %s: %s: %v", e.Node, e.Addr, e.Reason, e.Cause)
}

// Unwrap gives the sentinel and the cause.
func (e *BrokenError) Unwrap() []error {
	switch e.Reason {
	case WrongCluster:
		return []error{sheepdog.ErrWrongCluster, e.Cause}
	case ClosedHere:
		return []error{sheepdog.ErrUnreachable, sheepdog.ErrClosed, e.Cause}
	}
	return []error{sheepdog.ErrUnreachable, e.Cause}
}

// errGarbled is in the cause of every Garbled connection.
var errGarbled = errors.New("malformed frame")

// errSilent and errStalled are the causes of Silent.
var (
	errSilent  = errors.New("no heartbeat")
	errStalled = errors.New("our bytes are not read")
)

// reasonOf tells how err ended an established connection.
func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, errGarbled):
		return Garbled
	case errors.Is(err, errSilent), errors.Is(err, errStalled), errors.Is(err, syscall.ETIMEDOUT):
		return Silent
	case errors.Is(err, sheepdog.ErrWrongCluster):
		return WrongCluster
	case errors.Is(err, errVersion):
		return WrongVersion
	case errors.Is(err, sheepdog.ErrClosed), errors.Is(err, net.ErrClosed):
		return ClosedHere
	}
	return Reset
}

// dialReason tells why err kept a connection from being made.
func dialReason(err error) Reason {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return Silent
	case errors.Is(err, sheepdog.ErrUnreachable):
		return WrongNode
	case errors.Is(err, sheepdog.ErrWrongCluster), errors.Is(err, errGarbled), errors.Is(err, errVersion):
		return reasonOf(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Reset
	}
	return DialFailed
}
