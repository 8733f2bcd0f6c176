package api

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"sheepdog"
)

// health says that the process answers.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	_, err := io.WriteString(w, "ok\n")
	return err
}

// ready says whether VDIs can be used through this node.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	st, err := s.backend.Status(r.Context())
	if err != nil {
		return err
	}
	if st.State != StateRunning {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, err = io.WriteString(w, string(st.State)+"\n")
	return err
}

func (s *Server) status(ctx context.Context) (any, error) {
	st, err := s.backend.Status(ctx)
	if err != nil {
		return nil, err
	}
	st.Version = Version
	return st, nil
}

// The functions below take what a Backend returned and make the document that
// clients see: stamped with the version, and in order.

func cluster(c *Cluster, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	c.Version = Version
	c.History = list(c.History)
	slices.SortStableFunc(c.History, func(a, b EpochRecord) int { return cmp.Compare(b.Epoch, a.Epoch) })
	for i := range c.History {
		c.History[i].Members = list(c.History[i].Members)
		sortByAddr(c.History[i].Members, func(m *EpochMember) string { return m.Addr })
	}
	return c, nil
}

func nodes(n []Node, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	n = list(n)
	sortByAddr(n, func(n *Node) string { return n.Addr })
	return NodeList{Version: Version, Nodes: n}, nil
}

func capacities(c *Capacities, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	c.Version = Version
	c.Nodes = list(c.Nodes)
	sortByAddr(c.Nodes, func(n *NodeCapacity) string { return n.Addr })
	return c, nil
}

func recovery(n []NodeRecovery, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	n = list(n)
	sortByAddr(n, func(n *NodeRecovery) string { return n.Addr })
	return RecoveryList{Version: Version, Nodes: n}, nil
}

func oneVDI(v *VDI, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	v.complete()
	return VDIReply{Version: Version, VDI: *v}, nil
}

func snapshot(res *SnapshotResult, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	res.Version = Version
	for _, v := range []*VDI{res.Snapshot, res.Working} {
		if v != nil {
			v.complete()
		}
	}
	return res, nil
}

// list is a copy of l that is not nil: JSON has [] where there is nothing, and
// what a Backend returned is not put into order under its feet.
func list[T any](l []T) []T { return append(make([]T, 0, len(l)), l...) }

func (s *Server) killNode(w http.ResponseWriter, r *http.Request) error {
	ref := NodeRef{Self: r.PathValue("id") == "self"}
	q, err := params(r, "force")
	if err != nil {
		return err
	}
	if ref.Force, err = boolean(q, "force"); err != nil {
		return err
	}
	if !ref.Self {
		if err := ref.ID.UnmarshalText([]byte(r.PathValue("id"))); err != nil {
			return invalid(fmt.Sprintf("node id %q: want 16 hex digits or self", r.PathValue("id")))
		}
	}
	return reply(w, nil, s.backend.KillNode(r.Context(), ref))
}

func (s *Server) listVDIs(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "name", "brief", "physical", "object")
	if err != nil {
		return err
	}
	query := &VDIQuery{Name: q.Get("name")}
	if query.Brief, err = boolean(q, "brief"); err != nil {
		return err
	}
	if query.Physical, err = boolean(q, "physical"); err != nil {
		return err
	}
	if q.Has("object") {
		query.Object = &ObjectID{}
		if err := query.Object.UnmarshalText([]byte(q.Get("object"))); err != nil {
			return invalid(err.Error())
		}
	}
	vdis, err := s.backend.VDIs(r.Context(), query)
	if err != nil {
		return err
	}
	vdis = list(vdis)
	slices.SortStableFunc(vdis, func(a, b VDI) int { return cmp.Compare(a.ID, b.ID) })
	for i := range vdis {
		vdis[i].complete()
	}
	return reply(w, VDIList{Version: Version, VDIs: vdis}, nil)
}

func (s *Server) deleteVDI(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "name", "snapshot", "purge")
	if err != nil {
		return err
	}
	req := &DeleteRequest{Name: q.Get("name"), Snapshot: Selector(q.Get("snapshot"))}
	if q.Has("snapshot") && req.Snapshot == "" {
		// An empty variable in a script must not delete the VDI itself.
		return invalid("the snapshot is empty; leave the parameter out to delete the working VDI")
	}
	if req.Purge, err = boolean(q, "purge"); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	return reply(w, nil, s.backend.DeleteVDI(r.Context(), req))
}

// params are the query parameters; a name that is not allowed, or given twice,
// is refused, so that a misspelt one is not taken for a default.
func params(r *http.Request, allowed ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("query parameters: " + err.Error())
	}
	for name, values := range q {
		if !slices.Contains(allowed, name) {
			return nil, invalid(fmt.Sprintf("unknown query parameter %q; want %v", name, allowed))
		}
		if len(values) > 1 {
			return nil, invalid(fmt.Sprintf("query parameter %q is given twice", name))
		}
	}
	return q, nil
}

func boolean(q url.Values, name string) (bool, error) {
	if !q.Has(name) {
		return false, nil
	}
	b, err := strconv.ParseBool(q.Get(name))
	if err != nil {
		return false, invalid(fmt.Sprintf("query parameter %s=%q: want true or false", name, q.Get(name)))
	}
	return b, nil
}

// position is a query parameter in bytes, absent if not given.
func position(q url.Values, name string, absent uint64) (uint64, error) {
	if !q.Has(name) {
		return absent, nil
	}
	n, err := strconv.ParseUint(q.Get(name), 10, 64)
	if err != nil || n > sheepdog.MaxVDISize {
		return 0, invalid(fmt.Sprintf("query parameter %s=%q: want bytes, 0 to 16 PiB", name, q.Get(name)))
	}
	return n, nil
}
