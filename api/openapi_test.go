package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

type openAPIDocument struct {
	Paths      map[string]map[string]operation
	Components struct {
		Schemas map[string]struct {
			Required   []string
			Properties map[string]any
		}
	}
}

type operation struct {
	OperationID string
	Summary     string
	Parameters  []struct{ Name, In string }
	RequestBody json.RawMessage
	Responses   map[string]any
}

func document(t *testing.T) (doc openAPIDocument) {
	t.Helper()
	if err := json.Unmarshal(OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestOpenAPIRoutes fails when a route is missing from the document, or the
// other way round.
func TestOpenAPIRoutes(t *testing.T) {
	doc := document(t)
	s := NewServer(nil, Options{})
	for _, rt := range s.routes() {
		op, ok := doc.Paths[rt.path][strings.ToLower(rt.method)]
		if !ok {
			t.Errorf("route %s %s is not in openapi.json", rt.method, rt.path)
			continue
		}
		if op.OperationID == "" || op.Summary == "" || len(op.Responses) == 0 {
			t.Errorf("%s %s: operationId, summary or responses are missing", rt.method, rt.path)
		}
		delete(doc.Paths[rt.path], strings.ToLower(rt.method))
	}
	for path, ops := range doc.Paths {
		for method := range ops {
			t.Errorf("openapi.json has %s %s, which is no route", method, path)
		}
	}
}

// TestOpenAPISchemas compares the members of every schema with the Go type of
// the same name.
func TestOpenAPISchemas(t *testing.T) {
	doc := document(t)
	types := []any{Error{}, Status{}, NBDEndpoints{}, Cluster{}, EpochRecord{}, EpochMember{}, FormatRequest{},
		RecoverySetting{}, Node{}, NodeList{}, Capacities{}, NodeCapacity{}, NodeRecovery{}, RecoveryList{}, VDI{}, VDIList{},
		VDIReply{}, CreateRequest{}, SnapshotRequest{}, SnapshotResult{}, CloneRequest{}, RollbackRequest{}, ResizeRequest{},
		WriteReply{}, CheckRequest{}, CheckEvent{}, CheckVDI{}, Finding{}, CheckProgress{}, CheckSummary{}, Cluster{}.Config,
		Attribute{}, AttributeList{}, SetAttributeRequest{}, Limits{}, RenameRequest{}, VDICopiesRequest{}, CopyEvent{}, CopyProgress{}, ObjectLocation{}, ObjectNode{},
		ObjectMap{}, MappedObject{}, ObjectTrack{}, ObjectEpoch{}, ChangeList{}, LockList{}, Lock{}, UnlockRequest{}, CopiesRequest{},
		GroupRequest{}, GroupResult{}, AlterRequest{}, FlattenRequest{}, TrashedVDI{}, TrashList{}, TrashSetting{}, RestoreRequest{},
		VNodesRequest{}, Throttle{}, LogLevel{}, Stats{}, RequestStats{}, DiskList{}, NodeDisks{}, Disk{}, DisksRequest{},
		ForceRequest{}, ForceReport{}, LogEnd{}, Scrub{}, Defragment{}, DamagedVDI{}, DamagedPart{}}
	for _, v := range types {
		typ := reflect.TypeOf(v)
		want := jsonMembers(typ)
		var got []string
		for name := range doc.Components.Schemas[typ.Name()].Properties {
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("schema %s has %v, the type has %v", typ.Name(), got, want)
		}
		for _, name := range doc.Components.Schemas[typ.Name()].Required {
			if !slices.Contains(want, name) {
				t.Errorf("schema %s requires %s, which it has not", typ.Name(), name)
			}
		}
		delete(doc.Components.Schemas, typ.Name())
	}
	for name := range doc.Components.Schemas {
		if name != "ErrorDocument" && name != "Copies" {
			t.Errorf("schema %s has no type", name)
		}
	}
}

func jsonMembers(typ reflect.Type) (names []string) {
	for _, f := range reflect.VisibleFields(typ) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "-" {
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestOpenAPIReferences(t *testing.T) {
	doc := document(t)
	for _, ref := range bytes.Split(OpenAPI(), []byte(`"#/components/schemas/`))[1:] {
		name, _, _ := bytes.Cut(ref, []byte(`"`))
		if _, ok := doc.Components.Schemas[string(name)]; !ok {
			t.Errorf("reference to schema %s, which does not exist", name)
		}
	}
}

// TestOpenAPIErrorCodes: the table in the document is the table in the code.
func TestOpenAPIErrorCodes(t *testing.T) {
	text := string(OpenAPI())
	for _, k := range errorKinds {
		if !strings.Contains(text, k.code) {
			t.Errorf("error code %s is not described", k.code)
		}
	}
}

// FuzzRequests: whatever the body, decoding refuses it as invalid or yields a
// request that its own check accepts and that survives a round trip.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{``, `{}`, `{"name":"x","sizeBytes":1}`, `{"name":"x","tag":"t"}`, `{"source":"a","snapshot":"1","name":"b"}`,
		`{"copies":"4:2","minCopies":3}`, `{"enabled":true}`, `{"vdi":"x","snapshot":"t","dryRun":true}`, `{"name":"\ud800"}`, `null`, `{"name":null}`} {
		f.Add([]byte(seed))
	}
	kinds := []reflect.Type{reflect.TypeFor[FormatRequest](), reflect.TypeFor[RecoverySetting](), reflect.TypeFor[CheckRequest](), reflect.TypeFor[CreateRequest](),
		reflect.TypeFor[SnapshotRequest](), reflect.TypeFor[CloneRequest](), reflect.TypeFor[RollbackRequest](), reflect.TypeFor[ResizeRequest](),
		reflect.TypeFor[SetAttributeRequest](), reflect.TypeFor[Limits](), reflect.TypeFor[RenameRequest](), reflect.TypeFor[VDICopiesRequest](), reflect.TypeFor[UnlockRequest](), reflect.TypeFor[CopiesRequest](),
		reflect.TypeFor[GroupRequest](), reflect.TypeFor[AlterRequest](), reflect.TypeFor[FlattenRequest](), reflect.TypeFor[TrashSetting](), reflect.TypeFor[RestoreRequest](),
		reflect.TypeFor[VNodesRequest](), reflect.TypeFor[Throttle](), reflect.TypeFor[LogLevel](), reflect.TypeFor[ForceRequest]()}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range kinds {
			req := reflect.New(kind).Interface()
			if err := decode(data, req); err != nil {
				if c := ErrorCode(err); c != "invalid" {
					t.Errorf("%s: refused as %s: %v", kind.Name(), c, err)
				}
				continue
			}
			again, err := json.Marshal(req)
			if err != nil {
				t.Fatalf("%s: %v", kind.Name(), err)
			}
			back := reflect.New(kind).Interface()
			if err := decode(again, back); err != nil || !reflect.DeepEqual(req, back) {
				t.Errorf("%s: %s became %s: %v", kind.Name(), data, again, err)
			}
		}
	})
}

// FuzzVID: what decodes prints as it was, but for case and leading zeros.
func FuzzVID(f *testing.F) {
	for _, s := range []string{"0", "7c2b25", "ffffff", "1000000", "+1", "0x1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v VID
		if v.UnmarshalText([]byte(s)) != nil {
			return
		}
		var again VID
		if err := again.UnmarshalText([]byte(v.String())); err != nil || again != v || v > 0xffffff {
			t.Errorf("%q -> %s -> %s, %v", s, v, again, err)
		}
	})
}
