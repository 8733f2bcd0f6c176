package api

import (
	"context"
	"net/http"
	"unicode/utf8"
)

// Limits of attributes, in bytes.
const (
	MaxAttributeKey   = 255
	MaxAttributeValue = 65535
)

// AttributeBackend answers for the key-value pairs of VDIs.
type AttributeBackend interface {
	// Attribute is a value, of a VDI or of a snapshot. It is ErrNotFound if there is
	// no such VDI, snapshot or key.
	Attribute(ctx context.Context, name string, snapshot Selector, key string) ([]byte, error)
	// Attributes lists the keys of a VDI or snapshot.
	Attributes(ctx context.Context, name string, snapshot Selector) ([]string, error)
	// SetAttribute sets or deletes one. With Exclusive it is ErrExists if the key
	// has a value: of several that try at a time exactly one wins.
	SetAttribute(ctx context.Context, req *SetAttributeRequest) error
}

// Attribute is the answer of GET /v1/vdis/attribute.
type Attribute struct {
	Version int    `json:"version"`
	Name    string `json:"name"` // of the VDI
	Key     string `json:"key"`
	Value   []byte `json:"value"` // base64
}

// AttributeList is the answer of GET /v1/vdis/attributes, in order of keys.
type AttributeList struct {
	Version int      `json:"version"`
	Name    string   `json:"name"`
	Keys    []string `json:"keys"`
}

// SetAttributeRequest sets an attribute of a VDI or snapshot, or deletes it.
type SetAttributeRequest struct {
	Name      string   `json:"name"`
	Snapshot  Selector `json:"snapshot,omitempty"` // empty: the working VDI
	Key       string   `json:"key"`
	Value     []byte   `json:"value,omitempty"`     // base64
	Exclusive bool     `json:"exclusive,omitempty"` // fail if the key has a value
	Delete    bool     `json:"delete,omitempty"`
}

// CheckKey reports whether s may be the key of an attribute.
func CheckKey(s string) error {
	switch {
	case s == "":
		return invalidf("attribute key is empty")
	case len(s) > MaxAttributeKey:
		return invalidf("attribute key of %d bytes is longer than %d bytes", len(s), MaxAttributeKey)
	case !utf8.ValidString(s):
		return invalidf("attribute key %q is not UTF-8", s)
	}
	return nil
}

func (r *SetAttributeRequest) check() error {
	switch {
	case len(r.Value) > MaxAttributeValue:
		return invalidf("attribute value of %d bytes is longer than %d bytes", len(r.Value), MaxAttributeValue)
	case r.Delete && (r.Exclusive || len(r.Value) > 0):
		return invalidf("deletion of attribute %q takes neither a value nor exclusivity", r.Key)
	}
	return firstError(CheckName(r.Name), checkSelector(r.Snapshot, false), CheckKey(r.Key))
}

func (s *Server) attribute(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "name", "snapshot", "key")
	if err != nil {
		return err
	}
	out := Attribute{Version: Version, Name: q.Get("name"), Key: q.Get("key")}
	ref := Selector(q.Get("snapshot"))
	if err := firstError(CheckName(out.Name), checkSelector(ref, false), CheckKey(out.Key)); err != nil {
		return err
	}
	out.Value, err = s.backend.Attribute(r.Context(), out.Name, ref, out.Key)
	return reply(w, out, err)
}

func (s *Server) attributes(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "name", "snapshot")
	if err != nil {
		return err
	}
	out := AttributeList{Version: Version, Name: q.Get("name")}
	ref := Selector(q.Get("snapshot"))
	if err := firstError(CheckName(out.Name), checkSelector(ref, false)); err != nil {
		return err
	}
	keys, err := s.backend.Attributes(r.Context(), out.Name, ref)
	out.Keys = list(keys)
	return reply(w, out, err)
}
