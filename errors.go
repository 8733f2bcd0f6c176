package sheepdog

import (
	"errors"
	"fmt"
)

// Sentinels on which callers act. Those with a code cross the wire.
var (
	// ErrStale is returned when the request's revision is older than the
	// partition's interval; the caller takes the newer view and tries again.
	ErrStale = errors.New("request is of an older view")
	// ErrBehind is returned when a replica could not catch up with the request's
	// revision, or does not know its layer yet, in a bounded time.
	ErrBehind = errors.New("replica has not caught up with the view")
	// ErrNotActing is returned when the replica may not serve this partition.
	ErrNotActing = errors.New("node does not serve this partition")
	// ErrFenced is returned when a newer coordinator was promised.
	ErrFenced = errors.New("a newer coordinator has taken over")
	// ErrFrozen is returned for a write to a frozen or unknown layer.
	ErrFrozen = errors.New("layer is frozen")
	// ErrChecksum is returned when bytes do not match their checksum.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrNoSpace is returned when a store refuses a write for want of space.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrIO is returned when a disk failed.
	ErrIO = errors.New("disk failed")
	// ErrUnreachable is returned when a node cannot be reached or its
	// connection broke before it answered; the outcome is unknown.
	ErrUnreachable = errors.New("node is unreachable")
	// ErrNotCoordinator is returned when a forwarded request meets a node that
	// does not coordinate the family with that token.
	ErrNotCoordinator = errors.New("not the coordinator")
	// ErrClosed is returned when the node, volume or connection is closing.
	ErrClosed = errors.New("closed")
	// ErrInvalid is returned for malformed requests.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound is returned when a VDI, snapshot or node does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists is returned when a name or tag is taken.
	ErrExists = errors.New("exists already")
	// ErrNotFormatted is returned while no cluster is formatted.
	ErrNotFormatted = errors.New("cluster is not formatted")
	// ErrNoQuorum is returned when no leader could be reached in time.
	ErrNoQuorum = errors.New("no quorum")
	// ErrWrongCluster is returned when a peer belongs to another cluster.
	ErrWrongCluster = errors.New("node belongs to another cluster")
	// ErrConflict is returned when the state moved under a command; try again.
	ErrConflict = errors.New("state has changed")
	// ErrBusy is returned when a VDI is held by somebody else.
	ErrBusy = errors.New("in use")
)

// wireErrors is the one table of errors on the wire. Codes are never reused.
var wireErrors = []struct {
	code uint8
	err  error
}{
	{1, ErrStale}, {2, ErrBehind}, {3, ErrNotActing}, {4, ErrFenced}, {5, ErrFrozen},
	{6, ErrChecksum}, {7, ErrNoSpace}, {8, ErrIO}, {9, ErrUnreachable}, {10, ErrNotCoordinator},
	{11, ErrClosed}, {12, ErrInvalid}, {13, ErrNotFound}, {14, ErrExists}, {15, ErrNotFormatted},
	{16, ErrNoQuorum}, {17, ErrWrongCluster}, {18, ErrConflict}, {19, ErrBusy},
}

// codeOther stands for errors without a sentinel.
const codeOther = 255

// ErrorCode is the wire code of err: 0 for nil, 255 where no sentinel fits.
func ErrorCode(err error) uint8 {
	if err == nil {
		return 0
	}
	for _, w := range wireErrors {
		if errors.Is(err, w.err) {
			return w.code
		}
	}
	return codeOther
}

// WireError is the error that a code and its text stand for; nil for code 0.
// The result wraps the sentinel.
func WireError(code uint8, text string) error {
	if code == 0 {
		return nil
	}
	for _, w := range wireErrors {
		if w.code == code {
			return &remoteError{text: text, err: w.err}
		}
	}
	return fmt.Errorf("peer: %s", text)
}

// remoteError keeps the far end's words and the sentinel behind them.
type remoteError struct {
	text string
	err  error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.err }
