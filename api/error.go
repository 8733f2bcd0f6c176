package api

import (
	"context"
	"errors"
	"net/http"

	"sheepdog"
)

// Error is the JSON body of every failed request.
type Error struct {
	Code    string `json:"code"`           // stable; see the table in the OpenAPI document
	Message string `json:"message"`        // what failed and why
	Hint    string `json:"hint,omitempty"` // what to do
	Status  int    `json:"-"`              // HTTP status
}

// errorDocument is the envelope of Error.
type errorDocument struct {
	Version int    `json:"version"`
	Error   *Error `json:"error"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap is the sentinel that the code stands for, so that errors.Is works at
// both ends; nil for codes without one.
func (e *Error) Unwrap() error {
	for _, k := range errorKinds {
		if k.code == e.Code {
			return k.err
		}
	}
	return nil
}

// Codes that stand for no sentinel of package sheepdog.
const (
	CodeInternal  = "internal"
	CodeTooMany   = "too_many_requests"
	CodeTooLarge  = "too_large"
	CodeNoRoute   = "no_such_route"
	CodeNotLocked = "not_locked"
)

// errorKinds is the one table of errors in the control API. Codes are part of
// the API: never change or reuse one.
var errorKinds = []struct {
	err    error
	code   string
	status int
	hint   string
}{
	{sheepdog.ErrNotFormatted, "not_formatted", http.StatusConflict, "format the cluster first: dog cluster format"},
	{sheepdog.ErrInvalid, "invalid", http.StatusBadRequest, ""},
	{sheepdog.ErrNotFound, "not_found", http.StatusNotFound, ""},
	{sheepdog.ErrExists, "exists", http.StatusConflict, ""},
	{sheepdog.ErrBusy, "busy", http.StatusConflict, ""},
	{sheepdog.ErrConflict, "conflict", http.StatusConflict, "try again"},
	{sheepdog.ErrFrozen, "frozen", http.StatusConflict, "snapshots cannot be written; clone or roll back"},
	{sheepdog.ErrWrongCluster, "wrong_cluster", http.StatusConflict, "the node holds data of another cluster; start it with an empty directory"},
	{sheepdog.ErrNoSpace, "no_space", http.StatusInsufficientStorage, "delete VDIs or snapshots, or add nodes or disks"},
	{sheepdog.ErrNoQuorum, "no_quorum", http.StatusServiceUnavailable, "start the missing nodes; see dog node list"},
	{sheepdog.ErrClosed, "closed", http.StatusServiceUnavailable, "the node is stopping; ask another one"},
	{sheepdog.ErrUnreachable, "unreachable", http.StatusBadGateway, "see dog node list and the logs of the nodes"},
	{sheepdog.ErrIO, "io", http.StatusInternalServerError, "see the logs of the nodes"},
	{sheepdog.ErrChecksum, "checksum", http.StatusInternalServerError, "run dog cluster check"},
	{sheepdog.ErrStale, "stale", http.StatusServiceUnavailable, "try again"},
	{sheepdog.ErrBehind, "behind", http.StatusServiceUnavailable, "try again"},
	{sheepdog.ErrNotActing, "not_acting", http.StatusServiceUnavailable, "try again"},
	{sheepdog.ErrFenced, "fenced", http.StatusServiceUnavailable, "try again"},
	{sheepdog.ErrNotCoordinator, "not_coordinator", http.StatusServiceUnavailable, "try again"},
	{context.DeadlineExceeded, "timeout", http.StatusGatewayTimeout, "the outcome is unknown; look before you repeat it"},
	{context.Canceled, "canceled", http.StatusServiceUnavailable, ""},
}

// statusOf is the HTTP status that goes with a code; errors inside a stream
// come without one.
func statusOf(code string) int {
	for _, k := range errorKinds {
		if k.code == code {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

// Hinter is an error that knows what its reader should do.
type Hinter interface{ Hint() string }

// ErrorCode is the stable code of err; CodeInternal where no sentinel fits.
func ErrorCode(err error) string { return describe(err).Code }

// describe makes the JSON error of err.
func describe(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		out := *e
		out.Message = err.Error()
		return &out
	}
	e = &Error{Code: CodeInternal, Status: http.StatusInternalServerError, Message: err.Error()}
	for _, k := range errorKinds {
		if errors.Is(err, k.err) {
			e.Code, e.Status, e.Hint = k.code, k.status, k.hint
			break
		}
	}
	var h Hinter
	if errors.As(err, &h) {
		e.Hint = h.Hint()
	}
	return e
}
