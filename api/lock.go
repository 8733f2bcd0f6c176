package api

import (
	"context"
	"fmt"
	"net/http"

	"sheepdog"
)

// LockBackend answers for who has VDIs open for writing.
type LockBackend interface {
	// Locks lists the VDIs that a gateway coordinates now.
	Locks(ctx context.Context) ([]Lock, error)
	// Unlock has the gateway that coordinates a VDI flush it and give it back.
	// It is NotLocked if nobody does.
	Unlock(ctx context.Context, req *UnlockRequest) error
}

// Lock says which gateway orders the writes of a VDI. In a cluster formatted
// with locking it is the only one that may open it.
type Lock struct {
	Name string          `json:"name"`
	ID   VID             `json:"id"`
	Node sheepdog.NodeID `json:"node"`
	Addr string          `json:"addr"` // of the node; empty if it is no member any more
}

// LockList is the answer of GET /v1/locks, in ascending order of ids.
type LockList struct {
	Version int `json:"version"`
	// Exclusive: the cluster was formatted with locking.
	Exclusive bool   `json:"exclusive"`
	Locks     []Lock `json:"locks"`
}

// UnlockRequest takes a VDI from its gateway, which flushes it first. A client
// that still writes has the gateway ask for it again.
type UnlockRequest struct {
	Name string `json:"name"`
}

func (r *UnlockRequest) check() error { return CheckName(r.Name) }

// NotLocked is what Unlock returns for a VDI that no gateway coordinates.
func NotLocked(name string, id VID) error {
	return &Error{Code: CodeNotLocked, Status: http.StatusConflict, Message: fmt.Sprintf("VDI %s (vid=%s) is not locked", name, id)}
}

// locks makes the document; whether locks are exclusive stands in the
// configuration of the cluster.
func (s *Server) locks(ctx context.Context) (any, error) {
	c, err := s.backend.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	locks, err := s.backend.Locks(ctx)
	if err != nil {
		return nil, err
	}
	return LockList{Version: Version, Exclusive: c.Config.Locking, Locks: list(locks)}, nil
}
