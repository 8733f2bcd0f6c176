package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"sheepdog"
)

// CopyBackend moves all data of a VDI, which takes time in proportion to them.
type CopyBackend interface {
	// CopyVDI makes a VDI of a snapshot's data that shares nothing with it. It
	// calls report now and then; an error of report ends it and is returned.
	// After a failure there is no new VDI.
	CopyVDI(ctx context.Context, req *CloneRequest, report func(CopyProgress) error) (*VDI, error)
}

// CopyProgress counts bytes.
type CopyProgress struct {
	DoneBytes  uint64 `json:"doneBytes"`
	TotalBytes uint64 `json:"totalBytes"`
}

// NameTime is how a time stands in names that are made up, see time.Format; the time is in UTC.
const NameTime = "20060102T150405.000Z"

// UnfinishedName is the name under which a VDI is filled that is going to be called
// name: whoever is killed meanwhile leaves nothing that is taken for it. No pool of
// libvirt shows names that begin with a dot.
func UnfinishedName(name string, at time.Time) string {
	const begin = ".unfinished/"
	end := "-" + at.UTC().Format(NameTime)
	most := sheepdog.MaxNameLength - len(begin) - len(end)
	name = strings.ReplaceAll(name[:min(len(name), most)], "/", "-") // a name has one slash at most
	return begin + strings.ToValidUTF8(name, "") + end
}

// VDILister lists VDIs; a Client is one.
type VDILister interface {
	VDIs(ctx context.Context, q *VDIQuery) ([]VDI, error)
}

// PlaceFor is the name under which a VDI is to be filled: its own only if snapshots of that
// name are left, beside which nothing can be renamed. The error wraps sheepdog.ErrExists
// if there is a VDI of that name.
func PlaceFor(ctx context.Context, c VDILister, name string, at time.Time) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	vdis, err := c.VDIs(ctx, &VDIQuery{Name: name, Brief: true})
	switch {
	case err != nil:
		return "", err
	case slices.ContainsFunc(vdis, func(v VDI) bool { return !v.Snapshot }):
		return "", fmt.Errorf("VDI %q %w", name, sheepdog.ErrExists)
	case len(vdis) > 0:
		return name, nil
	}
	return UnfinishedName(name, at), nil
}

// CopyEvent is one line of the stream that POST /v1/vdis/copy answers: exactly
// one member is present. The last line has vdi or error; a stream without one
// was cut off.
type CopyEvent struct {
	Progress *CopyProgress `json:"progress,omitempty"`
	VDI      *VDI          `json:"vdi,omitempty"`
	Error    *Error        `json:"error,omitempty"`
}

// copyVDI streams the progress of a copy as one JSON document per line.
func (s *Server) copyVDI(w http.ResponseWriter, r *http.Request) error {
	req := &CloneRequest{}
	if err := body(s, w, r, req); err != nil {
		return err
	}
	if err := checkSelector(req.Snapshot, true); err != nil {
		return err
	}
	return s.copying(w, func(report func(CopyProgress) error) (*VDI, error) {
		return s.backend.CopyVDI(r.Context(), req, report)
	})
}

// copying streams the events of a copy that run makes.
func (s *Server) copying(w http.ResponseWriter, run func(report func(CopyProgress) error) (*VDI, error)) error {
	out := &stallWriter{w: w, rc: http.NewResponseController(w), limit: s.opts.StallTimeout}
	send := func(e *CopyEvent) error {
		w.Header().Set("Content-Type", "application/x-ndjson")
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
		return out.rc.Flush()
	}
	v, err := run(func(p CopyProgress) error { return send(&CopyEvent{Progress: &p}) })
	if err == nil {
		v.complete()
		return send(&CopyEvent{VDI: v})
	}
	if out.sent == 0 || out.failed {
		return err
	}
	return send(&CopyEvent{Error: describe(err)})
}

// CopyVDI makes a VDI of a snapshot's data that shares nothing with it; progress
// is called now and then.
func (c *Client) CopyVDI(ctx context.Context, r *CloneRequest, progress func(CopyProgress)) (*VDI, error) {
	return c.copying(ctx, "/v1/vdis/copy", r, progress)
}

// copying posts a request and follows the events of the copy that it starts.
func (c *Client) copying(ctx context.Context, path string, req any, progress func(CopyProgress)) (*VDI, error) {
	data, err := encode(req)
	if err != nil {
		return nil, err
	}
	var made *VDI
	err = c.lines(ctx, path, data, func(line []byte) error {
		var e CopyEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("copy event of %s is not understood: %w", c.addr, err)
		}
		switch {
		case e.Error != nil:
			e.Error.Status = statusOf(e.Error.Code)
			return e.Error
		case e.VDI != nil:
			made = e.VDI
			return errLastLine
		case e.Progress != nil:
			progress(*e.Progress)
		}
		return nil
	})
	if err == nil && made == nil {
		err = fmt.Errorf("%w: %s stopped before the copy was complete", sheepdog.ErrUnreachable, c.addr)
	}
	return made, err
}

// errLastLine ends a stream of events from within.
var errLastLine = errors.New("last line")
