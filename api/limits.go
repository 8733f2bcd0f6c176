package api

import (
	"context"
	"net/http"
	"net/url"
)

// MaxBurstSeconds bounds the burst of Limits.
const MaxBurstSeconds = 3600

// LimitsBackend answers for the limits of VDIs.
type LimitsBackend interface {
	// Limits are those of a working VDI. It is ErrNotFound if there is no such VDI.
	Limits(ctx context.Context, name string) (*Limits, error)
	// SetLimits replaces them; they hold at once, on every node.
	SetLimits(ctx context.Context, l *Limits) error
}

// Limits bound the I/O of a VDI through each node that serves it. Zero means
// unlimited.
type Limits struct {
	Version int    `json:"version,omitempty"`
	Name    string `json:"name"`
	// IOPS are reads, writes and discards per second.
	IOPS           uint64 `json:"iops"`
	BytesPerSecond uint64 `json:"bytesPerSecond"`
	// BurstSeconds is how much a VDI that was idle may do at once, counted in
	// seconds of its limits; 0: one second.
	BurstSeconds float64 `json:"burstSeconds"`
}

func (l *Limits) check() error {
	if l.BurstSeconds < 0 || l.BurstSeconds > MaxBurstSeconds {
		return invalidf("burst of %v seconds: want 0 to %d", l.BurstSeconds, MaxBurstSeconds)
	}
	return CheckName(l.Name)
}

func (s *Server) limits(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "name")
	if err != nil {
		return err
	}
	if err := CheckName(q.Get("name")); err != nil {
		return err
	}
	l, err := s.backend.Limits(r.Context(), q.Get("name"))
	if err == nil {
		l.Version = Version
	}
	return reply(w, l, err)
}

// Limits are those of a VDI.
func (c *Client) Limits(ctx context.Context, name string) (*Limits, error) {
	return get[Limits](ctx, c, "/v1/vdis/limits", url.Values{"name": {name}})
}

// SetLimits replaces the limits of a VDI.
func (c *Client) SetLimits(ctx context.Context, l *Limits) error {
	return c.call(ctx, http.MethodPut, "/v1/vdis/limits", nil, l, nil)
}
