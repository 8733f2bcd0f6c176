package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"sheepdog"
)

// ObjectBackend answers for the objects of VDIs, for people who look for data.
type ObjectBackend interface {
	// LocateObject says which nodes hold the object, and which should.
	LocateObject(ctx context.Context, q *ObjectQuery) (*ObjectLocation, error)
	// MapObjects lists the objects that a VDI or snapshot can read, ascending, at
	// most MaxMapped of them, from q.Index on.
	MapObjects(ctx context.Context, q *ObjectQuery) (*ObjectMap, error)
	// TrackObject says where every known epoch wanted the object, newest first.
	TrackObject(ctx context.Context, q *ObjectQuery) (*ObjectTrack, error)
	// ChangedObjects lists the indexes, ascending, at which two snapshots, or a
	// snapshot and the working VDI, can differ; no other one differs. At most
	// MaxMapped of them, from q.Index on.
	ChangedObjects(ctx context.Context, q *ChangeQuery) (*ChangeList, error)
}

// MaxMapped is how many objects one answer lists.
const MaxMapped = 65536

// ObjectID names an object as users see it: the id of the VDI or snapshot that
// has written it, and its index. It is 16 hex digits.
type ObjectID struct {
	Owner VID
	Index uint32
}

func (o ObjectID) String() string { return fmt.Sprintf("%08x%08x", uint32(o.Owner), o.Index) }

// MarshalText writes 16 hex digits.
func (o ObjectID) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads up to 16 hex digits.
func (o *ObjectID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil || n>>56 != 0 {
		return fmt.Errorf("object id %q: want up to 16 hex digits, the first 8 of them the id of a VDI", b)
	}
	*o = ObjectID{Owner: VID(n >> 32), Index: uint32(n)}
	return nil
}

// ObjectQuery names an object of a VDI or snapshot.
type ObjectQuery struct {
	Name     string
	Snapshot Selector
	Index    uint32
}

// ObjectLocation is the answer of GET /v1/vdis/object.
type ObjectLocation struct {
	Version   int             `json:"version"`
	Name      string          `json:"name"`
	ID        VID             `json:"id"` // of the VDI or snapshot that was asked for
	Index     uint32          `json:"index"`
	Allocated bool            `json:"allocated"` // whether anything was written there
	Object    ObjectID        `json:"object"`    // what is read there; only if allocated
	Copies    sheepdog.Policy `json:"copies"`
	Nodes     []ObjectNode    `json:"nodes"`  // all that store, ordered by address
	Wanted    []string        `json:"wanted"` // addresses where it belongs, in order of preference
}

// ObjectNode says whether a node has a replica of the object.
type ObjectNode struct {
	Node
	Holds bool   `json:"holds"`
	Error string `json:"error,omitempty"` // why the node did not answer
}

// ObjectMap is the answer of GET /v1/vdis/objects.
type ObjectMap struct {
	Version int            `json:"version"`
	Name    string         `json:"name"`
	ID      VID            `json:"id"`
	Objects []MappedObject `json:"objects"` // ascending
	More    bool           `json:"more"`    // there are more after the last
}

// MappedObject is one object that a VDI can read.
type MappedObject struct {
	Index uint32 `json:"index"`
	Owner VID    `json:"owner"` // the VDI or snapshot that has written it
}

// ObjectTrack is the answer of GET /v1/vdis/track.
type ObjectTrack struct {
	Version int             `json:"version"`
	Name    string          `json:"name"`
	ID      VID             `json:"id"`
	Index   uint32          `json:"index"`
	Object  ObjectID        `json:"object"`
	Copies  sheepdog.Policy `json:"copies"`
	Epochs  []ObjectEpoch   `json:"epochs"` // newest first
}

// ObjectEpoch is where one epoch wanted an object.
type ObjectEpoch struct {
	Epoch sheepdog.Epoch `json:"epoch"`
	Time  time.Time      `json:"time"`
	Addrs []string       `json:"addrs"`
}

// ChangeQuery compares two states of a VDI.
type ChangeQuery struct {
	Name  string
	From  Selector // a snapshot; empty: nothing was there yet
	To    Selector // a snapshot; empty: the working VDI
	Index uint32   // where to begin
}

// ChangeList is the answer of GET /v1/vdis/changes.
type ChangeList struct {
	Version int      `json:"version"`
	Indexes []uint32 `json:"indexes"`
	More    bool     `json:"more"`
}

func (q *ObjectQuery) check() error {
	return firstError(CheckName(q.Name), checkSelector(q.Snapshot, false))
}

func (q *ChangeQuery) check() error {
	return firstError(CheckName(q.Name), checkSelector(q.From, false), checkSelector(q.To, false))
}

func objectQuery(r *http.Request) (*ObjectQuery, error) {
	q, err := params(r, "name", "snapshot", "index")
	if err != nil {
		return nil, err
	}
	out := &ObjectQuery{Name: q.Get("name"), Snapshot: Selector(q.Get("snapshot"))}
	if out.Index, err = index(q); err != nil {
		return nil, err
	}
	return out, out.check()
}

// index is the query parameter of that name, 0 if it is not given.
func index(q url.Values) (uint32, error) {
	if !q.Has("index") {
		return 0, nil
	}
	n, err := strconv.ParseUint(q.Get("index"), 10, 32)
	if err != nil {
		return 0, invalidf("query parameter index=%q: want 0 to 4294967295", q.Get("index"))
	}
	return uint32(n), nil
}

// object is an endpoint about one object.
func object[T any](f func(context.Context, *ObjectQuery) (*T, error), finish func(*T)) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := objectQuery(r)
		if err != nil {
			return err
		}
		out, err := f(r.Context(), q)
		if err != nil {
			return err
		}
		finish(out)
		return reply(w, out, nil)
	}
}

func (l *ObjectLocation) finish() {
	l.Version, l.Nodes, l.Wanted = Version, list(l.Nodes), list(l.Wanted)
	sortByAddr(l.Nodes, func(n *ObjectNode) string { return n.Addr })
}

func (m *ObjectMap) finish() { m.Version, m.Objects = Version, list(m.Objects) }

func (t *ObjectTrack) finish() {
	t.Version, t.Epochs = Version, list(t.Epochs)
	slices.SortStableFunc(t.Epochs, func(a, b ObjectEpoch) int { return cmp.Compare(b.Epoch, a.Epoch) })
}

func (s *Server) changes(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "name", "from", "to", "index")
	if err != nil {
		return err
	}
	req := &ChangeQuery{Name: q.Get("name"), From: Selector(q.Get("from")), To: Selector(q.Get("to"))}
	if req.Index, err = index(q); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	out, err := s.backend.ChangedObjects(r.Context(), req)
	if err != nil {
		return err
	}
	out.Version, out.Indexes = Version, list(out.Indexes)
	return reply(w, out, nil)
}
