package api

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
	"unicode/utf8"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI is the OpenAPI 3 document of this API.
func OpenAPI() []byte { return bytes.Clone(openAPI) }

// route is one method and path; the OpenAPI document lists the same.
type route struct {
	method, path string
	serve        endpoint
	unlimited    bool // not counted in MaxRequests
}

// routes is the whole API.
func (s *Server) routes() []route {
	b := s.backend
	list := []route{
		{"GET", "/healthz", s.health, true},
		{"GET", "/readyz", s.ready, true},
		{"GET", "/metrics", s.metrics, true},
		{"GET", "/v1/openapi.json", serveOpenAPI, true},
		{"GET", "/v1/status", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return s.status(ctx) }), true},
		{"GET", "/v1/cluster", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return cluster(b.Cluster(ctx)) }), false},
		{"POST", "/v1/cluster/format", answer(s, body, func(ctx context.Context, req *FormatRequest) (any, error) { return cluster(b.Format(ctx, req)) }), false},
		{"POST", "/v1/cluster/shutdown", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return nil, b.Shutdown(ctx) }), false},
		{"PUT", "/v1/cluster/recovery", answer(s, body, func(ctx context.Context, req *RecoverySetting) (any, error) {
			return nil, b.SetRecovery(ctx, *req.Enabled)
		}), false},
		{"POST", "/v1/cluster/force", answer(s, body, func(ctx context.Context, req *ForceRequest) (any, error) { return force(b.Force(ctx, req)) }), false},
		{"POST", "/v1/check", s.check, false},
		{"GET", "/v1/nodes", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return nodes(b.Nodes(ctx)) }), false},
		{"GET", "/v1/nodes/capacity", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return capacities(b.Capacities(ctx)) }), false},
		{"DELETE", "/v1/nodes/{id}", s.killNode, false},
		{"GET", "/v1/recovery", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return recovery(b.Recovery(ctx)) }), false},
		{"GET", "/v1/vdis", s.listVDIs, false},
		{"POST", "/v1/vdis", answer(s, body, func(ctx context.Context, req *CreateRequest) (any, error) { return oneVDI(b.CreateVDI(ctx, req)) }), false},
		{"DELETE", "/v1/vdis", s.deleteVDI, false},
		{"POST", "/v1/vdis/snapshot", answer(s, body, func(ctx context.Context, req *SnapshotRequest) (any, error) { return snapshot(b.SnapshotVDI(ctx, req)) }), false},
		{"POST", "/v1/vdis/clone", answer(s, body, func(ctx context.Context, req *CloneRequest) (any, error) { return oneVDI(b.CloneVDI(ctx, req)) }), false},
		{"POST", "/v1/vdis/rollback", answer(s, body, func(ctx context.Context, req *RollbackRequest) (any, error) { return oneVDI(b.RollbackVDI(ctx, req)) }), false},
		{"POST", "/v1/vdis/resize", answer(s, body, func(ctx context.Context, req *ResizeRequest) (any, error) { return oneVDI(b.ResizeVDI(ctx, req)) }), false},
		{"GET", "/v1/vdis/data", s.readVDI, false},
		{"PUT", "/v1/vdis/data", s.writeVDI, false},
	}
	list = append(list, s.moreRoutes()...)
	return append(list, s.lifecycleRoutes()...)
}

// moreRoutes are those beyond the life of VDIs.
func (s *Server) moreRoutes() []route {
	b := s.backend
	return []route{
		{"GET", "/v1/vdis/attributes", s.attributes, false},
		{"GET", "/v1/vdis/attribute", s.attribute, false},
		{"PUT", "/v1/vdis/attribute", answer(s, body, func(ctx context.Context, req *SetAttributeRequest) (any, error) {
			return nil, b.SetAttribute(ctx, req)
		}), false},
		{"GET", "/v1/vdis/limits", s.limits, false},
		{"PUT", "/v1/vdis/limits", answer(s, body, func(ctx context.Context, req *Limits) (any, error) { return nil, b.SetLimits(ctx, req) }), false},
		{"PUT", "/v1/vdis/copies", answer(s, body, func(ctx context.Context, req *VDICopiesRequest) (any, error) { return nil, b.SetVDICopies(ctx, req) }), false},
		{"POST", "/v1/vdis/rename", answer(s, body, func(ctx context.Context, req *RenameRequest) (any, error) { return nil, b.RenameVDI(ctx, req) }), false},
		{"POST", "/v1/vdis/copy", s.copyVDI, false},
		{"GET", "/v1/vdis/object", s.byQuery(func(b Backend) endpoint { return object(b.LocateObject, (*ObjectLocation).finish) }), false},
		{"GET", "/v1/vdis/objects", s.byQuery(func(b Backend) endpoint { return object(b.MapObjects, (*ObjectMap).finish) }), false},
		{"GET", "/v1/vdis/track", s.byQuery(func(b Backend) endpoint { return object(b.TrackObject, (*ObjectTrack).finish) }), false},
		{"GET", "/v1/vdis/changes", s.changes, false},
		{"GET", "/v1/locks", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return s.locks(ctx) }), false},
		{"POST", "/v1/locks/release", answer(s, body, func(ctx context.Context, req *UnlockRequest) (any, error) { return nil, b.Unlock(ctx, req) }), false},
		{"PUT", "/v1/cluster/copies", answer(s, body, func(ctx context.Context, req *CopiesRequest) (any, error) { return nil, b.SetCopies(ctx, req) }), false},
		{"POST", "/v1/cluster/reweight", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return nil, b.Reweight(ctx) }), false},
		{"GET", "/v1/nodes/disks", s.disks, false},
		{"POST", "/v1/nodes/self/disks/plug", answer(s, body, func(ctx context.Context, req *DisksRequest) (any, error) { return nil, b.PlugDisks(ctx, req) }), false},
		{"POST", "/v1/nodes/self/disks/unplug", answer(s, body, func(ctx context.Context, req *DisksRequest) (any, error) { return nil, b.UnplugDisks(ctx, req) }), false},
		{"PUT", "/v1/nodes/self/vnodes", answer(s, body, func(ctx context.Context, req *VNodesRequest) (any, error) { return nil, b.SetVNodes(ctx, req) }), false},
		{"GET", "/v1/nodes/self/throttle", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return throttle(b.Throttle(ctx)) }), false},
		{"PUT", "/v1/nodes/self/throttle", answer(s, body, func(ctx context.Context, req *Throttle) (any, error) { return nil, b.SetThrottle(ctx, req) }), false},
		{"GET", "/v1/nodes/self/log", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return logLevel(b.LogLevel(ctx)) }), false},
		{"PUT", "/v1/nodes/self/log", answer(s, body, func(ctx context.Context, req *LogLevel) (any, error) { return nil, b.SetLogLevel(ctx, req) }), false},
		{"GET", "/v1/nodes/self/stats", answer(s, noBody, func(ctx context.Context, _ *nothing) (any, error) { return stats(b.Stats(ctx)) }), false},
	}
}

// byQuery defers the look at the backend to the first request: the routes are
// listed without one.
func (s *Server) byQuery(make func(Backend) endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error { return make(s.backend)(w, r) }
}

// nothing is the request of routes without a body.
type nothing struct{}

// checker is a request that can look at its own form.
type checker interface{ check() error }

// answer is an endpoint that takes a request from the body, checks it, and
// sends what f returns as JSON; 204 if that is nil.
func answer[T any](s *Server, take func(*Server, http.ResponseWriter, *http.Request, any) error, f func(context.Context, *T) (any, error)) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		req := new(T)
		if err := take(s, w, r, req); err != nil {
			return err
		}
		out, err := f(r.Context(), req)
		return reply(w, out, err)
	}
}

// reply sends a document, or 204 for nil.
func reply(w http.ResponseWriter, out any, err error) error {
	if err != nil {
		return err
	}
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	sendJSON(w, http.StatusOK, out)
	return nil
}

func noBody(*Server, http.ResponseWriter, *http.Request, any) error { return nil }

// body reads the JSON body, which must arrive in time, into req.
func body(s *Server, w http.ResponseWriter, r *http.Request, req any) error {
	rc := http.NewResponseController(w)
	// Without a real connection, in tests, there is no deadline to set.
	_ = rc.SetReadDeadline(time.Now().Add(s.opts.BodyTimeout))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return err
		}
		return invalid("cannot read the request body: " + err.Error())
	}
	return decode(data, req)
}

// decode reads one JSON value, strictly, and checks it.
func decode(data []byte, req any) error {
	if !utf8.Valid(data) {
		// The decoder would put other characters in its place.
		return invalid("request body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(req); err != nil {
		if errors.Is(err, io.EOF) {
			return invalid("request body is empty; want a JSON object")
		}
		return invalid("request body: " + err.Error())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return invalid("request body has more than one JSON value")
	}
	if c, ok := req.(checker); ok {
		return c.check()
	}
	return nil
}

func sendJSON(w http.ResponseWriter, status int, doc any) {
	data, err := json.Marshal(doc)
	if err != nil {
		panic("control API: cannot encode its own document: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that is gone does not want to know.
	_, _ = w.Write(append(data, '\n'))
}

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(openAPI)
	return err
}
