package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"sheepdog"
)

// LifecycleBackend answers for what happens to VDIs between creation and the
// end.
type LifecycleBackend interface {
	// SnapshotGroup snapshots several VDIs in one moment: all or none.
	SnapshotGroup(ctx context.Context, req *GroupRequest) (*GroupResult, error)
	// AlterVDI gives a VDI another redundancy and copies its data; guests may
	// write meanwhile. It calls report now and then. What was broken off goes on
	// when it is called again.
	AlterVDI(ctx context.Context, req *AlterRequest, report func(CopyProgress) error) (*VDI, error)
	// FlattenVDI copies what a clone reads from its base, which it needs no more
	// then. It calls report now and then.
	FlattenVDI(ctx context.Context, req *FlattenRequest, report func(CopyProgress) error) (*VDI, error)
	// Trash lists what is in the trash.
	Trash(ctx context.Context) (*TrashList, error)
	// SetTrash turns the trash on or off for deletions to come.
	SetTrash(ctx context.Context, req *TrashSetting) error
	// RestoreTrash takes a VDI out of the trash.
	RestoreTrash(ctx context.Context, req *RestoreRequest) (*VDI, error)
	// PurgeTrash deletes a VDI in the trash for good.
	PurgeTrash(ctx context.Context, id VID) error
}

// MaxGroup is the most VDIs of one group snapshot.
const MaxGroup = 64

// GroupRequest snapshots several VDIs in one moment.
type GroupRequest struct {
	Names       []string  `json:"names"`
	Tag         string    `json:"tag,omitempty"` // the same for all
	Description string    `json:"description,omitempty"`
	Expires     time.Time `json:"expires,omitzero"`
}

// GroupResult has a result for every name, in their order.
type GroupResult struct {
	Version   int              `json:"version"`
	Snapshots []SnapshotResult `json:"snapshots"`
}

// AlterRequest changes the redundancy of a working VDI.
type AlterRequest struct {
	Name   string          `json:"name"`
	Copies sheepdog.Policy `json:"copies"` // required
}

// FlattenRequest has a clone let go of its base.
type FlattenRequest struct {
	Name string `json:"name"`
}

// TrashedVDI is a VDI in the trash; its name is the one that it had.
type TrashedVDI struct {
	Name      string    `json:"name"`
	ID        VID       `json:"id"`
	SizeBytes uint64    `json:"sizeBytes"`
	Deleted   time.Time `json:"deleted"`
	Expires   time.Time `json:"expires"`
}

// TrashList is the answer of GET /v1/trash, in ascending order of ids.
type TrashList struct {
	Version int `json:"version"`
	// KeepSeconds is how long deleted VDIs are kept; 0: the trash is off.
	KeepSeconds uint64       `json:"keepSeconds"`
	VDIs        []TrashedVDI `json:"vdis"`
}

// MaxTrashSeconds is the longest that the trash may keep VDIs: a hundred years.
const MaxTrashSeconds = 100 * 365 * 24 * 3600

// TrashSetting turns the trash on or off.
type TrashSetting struct {
	KeepSeconds uint64 `json:"keepSeconds"` // 0: off
}

// RestoreRequest takes a VDI out of the trash.
type RestoreRequest struct {
	ID   VID    `json:"id"`
	Name string `json:"name,omitempty"` // empty: the one that it had
}

func (r *GroupRequest) check() error {
	if n := len(r.Names); n == 0 || n > MaxGroup {
		return invalidf("group of %d VDIs: want 1 to %d", n, MaxGroup)
	}
	for _, name := range r.Names {
		one := SnapshotRequest{Name: name, Tag: r.Tag, Description: r.Description}
		if err := one.check(); err != nil {
			return err
		}
	}
	return nil
}

func (r *AlterRequest) check() error {
	if r.Copies.Copies == 0 {
		return invalidf("no number of copies given")
	}
	return CheckName(r.Name)
}

func (r *FlattenRequest) check() error { return CheckName(r.Name) }

func (r *TrashSetting) check() error {
	if r.KeepSeconds > MaxTrashSeconds {
		return invalidf("trash that keeps VDIs for %d s: at most %d are allowed", r.KeepSeconds, uint64(MaxTrashSeconds))
	}
	return nil
}

func (r *RestoreRequest) check() error {
	if r.Name == "" {
		return nil
	}
	return CheckName(r.Name)
}

// lifecycleRoutes are the routes of LifecycleBackend.
func (s *Server) lifecycleRoutes() []route {
	b := s.backend
	return []route{
		{"POST", "/v1/vdis/snapshot/group", answer(s, body, func(ctx context.Context, req *GroupRequest) (any, error) { return group(b.SnapshotGroup(ctx, req)) }), false},
		{"POST", "/v1/vdis/copies", s.alterVDI, false},
		{"POST", "/v1/vdis/flatten", s.flattenVDI, false},
		{"GET", "/v1/trash", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return trash(b.Trash(ctx)) }), false},
		{"PUT", "/v1/trash", answer(s, body, func(ctx context.Context, req *TrashSetting) (any, error) { return nil, b.SetTrash(ctx, req) }), false},
		{"DELETE", "/v1/trash", s.purgeTrash, false},
		{"POST", "/v1/trash/restore", answer(s, body, func(ctx context.Context, req *RestoreRequest) (any, error) { return oneVDI(b.RestoreTrash(ctx, req)) }), false},
	}
}

func group(res *GroupResult, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	res.Version = Version
	res.Snapshots = list(res.Snapshots)
	for i := range res.Snapshots {
		if _, err := snapshot(&res.Snapshots[i], nil); err != nil {
			return nil, err
		}
	}
	return res, nil
}

func trash(t *TrashList, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	t.Version, t.VDIs = Version, list(t.VDIs)
	return t, nil
}

func (s *Server) alterVDI(w http.ResponseWriter, r *http.Request) error {
	req := &AlterRequest{}
	if err := body(s, w, r, req); err != nil {
		return err
	}
	return s.copying(w, func(report func(CopyProgress) error) (*VDI, error) {
		return s.backend.AlterVDI(r.Context(), req, report)
	})
}

func (s *Server) flattenVDI(w http.ResponseWriter, r *http.Request) error {
	req := &FlattenRequest{}
	if err := body(s, w, r, req); err != nil {
		return err
	}
	return s.copying(w, func(report func(CopyProgress) error) (*VDI, error) {
		return s.backend.FlattenVDI(r.Context(), req, report)
	})
}

func (s *Server) purgeTrash(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "id")
	if err != nil {
		return err
	}
	var id VID
	if err := id.UnmarshalText([]byte(q.Get("id"))); err != nil {
		return invalid(err.Error())
	}
	return reply(w, nil, s.backend.PurgeTrash(r.Context(), id))
}

// SnapshotGroup snapshots several VDIs in one moment: all or none.
func (c *Client) SnapshotGroup(ctx context.Context, req *GroupRequest) (*GroupResult, error) {
	out := &GroupResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/vdis/snapshot/group", nil, req, out)
}

// AlterVDI gives a VDI another redundancy; progress is called now and then.
func (c *Client) AlterVDI(ctx context.Context, req *AlterRequest, progress func(CopyProgress)) (*VDI, error) {
	return c.copying(ctx, "/v1/vdis/copies", req, progress)
}

// FlattenVDI has a clone let go of its base; progress is called now and then.
func (c *Client) FlattenVDI(ctx context.Context, req *FlattenRequest, progress func(CopyProgress)) (*VDI, error) {
	return c.copying(ctx, "/v1/vdis/flatten", req, progress)
}

// Trash lists what is in the trash.
func (c *Client) Trash(ctx context.Context) (*TrashList, error) {
	return get[TrashList](ctx, c, "/v1/trash", nil)
}

// SetTrash turns the trash on or off for deletions to come.
func (c *Client) SetTrash(ctx context.Context, req *TrashSetting) error {
	return c.call(ctx, http.MethodPut, "/v1/trash", nil, req, nil)
}

// RestoreTrash takes a VDI out of the trash.
func (c *Client) RestoreTrash(ctx context.Context, req *RestoreRequest) (*VDI, error) {
	out := &VDIReply{}
	if err := c.call(ctx, http.MethodPost, "/v1/trash/restore", nil, req, out); err != nil {
		return nil, err
	}
	return &out.VDI, nil
}

// PurgeTrash deletes a VDI in the trash for good.
func (c *Client) PurgeTrash(ctx context.Context, id VID) error {
	return c.call(ctx, http.MethodDelete, "/v1/trash", url.Values{"id": {id.String()}}, nil, nil)
}
