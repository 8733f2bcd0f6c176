package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/api/apitest"
)

// hard names that paths, queries or JSON could spoil.
var hardNames = []string{"a", "pool/vol", "a b", "..", ".", "%/%", "ä/€ 😀", `q"uo\te`, "100%", "a+b&c=d?e#f", "%2F", "<x>", strings.Repeat("n", 255)}

func serve(t *testing.T, b api.Backend, opts api.Options) (*api.Client, string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = api.NewServer(b, opts).HTTPServer(t.Context())
	srv.Start()
	t.Cleanup(srv.Close)
	c := api.NewClient(srv.Listener.Addr().String())
	t.Cleanup(c.Close)
	return c, srv.URL
}

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVDILifeWithHardNames(t *testing.T) {
	for _, name := range hardNames {
		t.Run(fmt.Sprintf("%.20q", name), func(t *testing.T) {
			ctx := t.Context()
			c, _ := serve(t, apitest.New(3), api.Options{})
			v, err := c.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: 1 << 20})
			if must(t, v, err).Name != name {
				t.Fatalf("created %q", v.Name)
			}
			data := []byte("some bytes")
			n, err := c.WriteVDI(ctx, &api.WriteRequest{Name: name, Offset: 7, Length: -1}, bytes.NewReader(data))
			if must(t, n, err) != int64(len(data)) {
				t.Fatalf("wrote %d bytes", n)
			}
			snap, err := c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: name, Tag: name})
			must(t, snap, err)
			if !snap.Created || snap.Snapshot.ID != v.ID || snap.Snapshot.Tag != name || snap.Working.ID == v.ID {
				t.Fatalf("snapshot: %+v", snap)
			}
			clone, err := c.CloneVDI(ctx, &api.CloneRequest{Source: name, Snapshot: api.Selector(name), Name: "clone of it"})
			if !must(t, clone, err).Clone {
				t.Fatal("clone is not marked")
			}
			var out bytes.Buffer
			_, err = c.ReadVDI(ctx, &api.ReadRequest{Name: name, Snapshot: api.Selector(name), Offset: 7, Length: int64(len(data))}, &out)
			if err != nil || out.String() != string(data) {
				t.Fatalf("read %q, %v", out.String(), err)
			}
			list, err := c.VDIs(ctx, &api.VDIQuery{Name: name})
			if len(must(t, list, err)) != 2 || list[0].ID >= list[1].ID {
				t.Fatalf("list: %+v", list)
			}
			if err := c.DeleteVDI(ctx, &api.DeleteRequest{Name: name, Snapshot: api.Selector(name)}); err != nil {
				t.Fatal(err)
			}
			if err := c.DeleteVDI(ctx, &api.DeleteRequest{Name: name, Snapshot: api.Selector(name)}); !errors.Is(err, sheepdog.ErrNotFound) {
				t.Fatalf("second delete: %v", err)
			}
		})
	}
}

func TestClusterAndNodes(t *testing.T) {
	ctx := t.Context()
	b := apitest.New(3)
	b.NodeList[0], b.NodeList[2] = b.NodeList[2], b.NodeList[0]
	b.Info.History = append(b.Info.History, api.EpochRecord{Epoch: 2})
	b.Behind = []api.NodeRecovery{{Node: b.NodeList[0], FinishedObjects: 1, TotalObjects: 4}}
	c, _ := serve(t, b, api.Options{})
	nodes, err := c.Nodes(ctx)
	must(t, nodes, err)
	for i, n := range nodes {
		if n.ID != sheepdog.NodeID(i+1) {
			t.Fatalf("nodes are not in order of their addresses: %+v", nodes)
		}
	}
	cl, err := c.Cluster(ctx)
	if must(t, cl, err); cl.Version != 1 || cl.History[0].Epoch != 2 || cl.History[0].Members == nil || cl.Config.Policy.Copies != 3 {
		t.Fatalf("cluster: %+v", cl)
	}
	if err := c.SetRecovery(ctx, false); err != nil || !b.Info.Config.RecoveryDisabled {
		t.Fatalf("recovery disable: %v, %v", err, b.Info.Config)
	}
	rec, err := c.Recovery(ctx)
	if must(t, rec, err); len(rec) != 1 || rec[0].TotalObjects != 4 || rec[0].Addr != "127.0.0.1:7002" {
		t.Fatalf("recovery: %+v", rec)
	}
	if err := c.KillNode(ctx, api.NodeRef{ID: 3}); err != nil {
		t.Fatal(err)
	}
	if err := c.KillNode(ctx, api.NodeRef{Self: true}); err != nil {
		t.Fatal(err)
	}
	if k := b.Killed(); len(k) != 2 || k[0] != 3 || k[1] != 1 {
		t.Fatalf("killed %v", k)
	}
	b.Sole = 2
	if err := c.KillNode(ctx, api.NodeRef{ID: 2}); !errors.Is(err, sheepdog.ErrBusy) {
		t.Fatalf("kill of a node with the only complete replicas: %v", err)
	}
	if err := c.KillNode(ctx, api.NodeRef{ID: 2, Force: true}); err != nil || len(b.Killed()) != 3 {
		t.Fatalf("forced kill of a node with the only complete replicas: %v, killed %v", err, b.Killed())
	}
	if err := c.KillNode(ctx, api.NodeRef{ID: 77}); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Fatalf("kill of an unknown node: %v", err)
	}
	if err := c.Shutdown(ctx); err != nil || b.Stops() != 1 {
		t.Fatalf("shutdown: %v, %d", err, b.Stops())
	}
}

func TestFormatAsksBeforeItDeletes(t *testing.T) {
	ctx := t.Context()
	b := apitest.New(1)
	c, _ := serve(t, b, api.Options{})
	b.Put(api.VDI{Name: "x", ID: 1}, nil)
	req := &api.FormatRequest{Copies: sheepdog.Policy{Copies: 2}}
	if _, err := c.Format(ctx, req); !errors.Is(err, sheepdog.ErrBusy) {
		t.Fatalf("format over VDIs: %v", err)
	}
	req.Discard = true
	cl, err := c.Format(ctx, req)
	if must(t, cl, err).Config.Policy.Copies != 2 {
		t.Fatalf("format: %+v", cl)
	}
	if _, err := c.Format(ctx, &api.FormatRequest{}); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Fatalf("format without copies: %v", err)
	}
}

func TestDataAtAnyOffset(t *testing.T) {
	ctx := t.Context()
	b := apitest.New(1)
	c, _ := serve(t, b, api.Options{})
	create(t, c, "v", 3<<20+5)
	want := make([]byte, 3<<20+5)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		off := rng.IntN(len(want))
		data := make([]byte, rng.IntN(min(len(want)-off, 1<<20)+1))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		length := int64(-1)
		if off%2 == 0 {
			length = int64(len(data))
		}
		n, err := c.WriteVDI(ctx, &api.WriteRequest{Name: "v", Offset: uint64(off), Length: length}, bytes.NewReader(data))
		if err != nil || int(n) != len(data) {
			t.Fatalf("write of %d at %d: %d, %v", len(data), off, n, err)
		}
		copy(want[off:], data)
	}
	var got bytes.Buffer
	n, err := c.ReadVDI(ctx, &api.ReadRequest{Name: "v", Length: api.ToEnd}, &got)
	if err != nil || int(n) != len(want) || !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("read back %d bytes, %v", n, err)
	}
}

func create(t *testing.T, c *api.Client, name string, size uint64) {
	t.Helper()
	v, err := c.CreateVDI(t.Context(), &api.CreateRequest{Name: name, SizeBytes: size})
	must(t, v, err)
}

func TestDataErrors(t *testing.T) {
	ctx := t.Context()
	b := apitest.New(1)
	c, base := serve(t, b, api.Options{})
	create(t, c, "v", 4096)
	if _, err := c.WriteVDI(ctx, &api.WriteRequest{Name: "v", Offset: 5000, Length: -1}, strings.NewReader("x")); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("write beyond the end: %v", err)
	}
	_, err := c.WriteVDI(ctx, &api.WriteRequest{Name: "v", Offset: 4000, Length: -1}, strings.NewReader(strings.Repeat("x", 200)))
	if !errors.Is(err, sheepdog.ErrInvalid) || !strings.Contains(err.Error(), "96 bytes were written") {
		t.Errorf("write over the end: %v", err)
	}
	if _, err := c.WriteVDI(ctx, &api.WriteRequest{Name: "no", Length: -1}, neverRead{t}); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("write to a missing VDI: %v", err)
	}
	broken := errors.New("the tape tore")
	if _, err := c.WriteVDI(ctx, &api.WriteRequest{Name: "v", Length: -1}, brokenReader{broken}); !errors.Is(err, broken) {
		t.Errorf("broken source: %v", err)
	}
	if _, err := c.ReadVDI(ctx, &api.ReadRequest{Name: "v", Offset: 4097, Length: api.ToEnd}, io.Discard); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("read beyond the end: %v", err)
	}
	b.ReadLimit = 1000
	var out bytes.Buffer
	n, err := c.ReadVDI(ctx, &api.ReadRequest{Name: "v", Length: api.ToEnd}, &out)
	if !errors.Is(err, sheepdog.ErrIO) || n != 1000 {
		t.Errorf("disk failure midway: %d, %v", n, err)
	}
	resp, err := http.Get(base + "/v1/vdis/data?name=v")
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("a client without trailers took half an answer for a whole one")
	}
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

// neverRead holds the data of a write back until the server has answered.
type neverRead struct{ t *testing.T }

func (n neverRead) Read([]byte) (int, error) { <-n.t.Context().Done(); return 0, io.EOF }

func TestCheckStream(t *testing.T) {
	ctx := t.Context()
	b := apitest.New(1)
	v := &api.CheckVDI{Name: "v"}
	b.Events = []api.CheckEvent{{Begin: v}, {Finding: &api.Finding{Kind: api.FindingMissing, Object: "1.0", Repaired: true}}, {End: v}}
	b.Summary = api.CheckSummary{Objects: 4, Found: 1, Repaired: 1}
	c, _ := serve(t, b, api.Options{})
	var got []api.CheckEvent
	sum, err := c.Check(ctx, &api.CheckRequest{DryRun: true, VDI: "v"}, func(e *api.CheckEvent) error { got = append(got, *e); return nil })
	if must(t, sum, err); *sum != (api.CheckSummary{Version: 1, Objects: 4, Found: 1, Repaired: 1}) || len(got) != 3 || got[1].Finding.Object != "1.0" {
		t.Fatalf("check: %+v, %+v", sum, got)
	}
	if r := b.Checks(); len(r) != 1 || !r[0].DryRun || r[0].VDI != "v" {
		t.Fatalf("backend saw %+v", r)
	}
	b.CheckErr = fmt.Errorf("read replica: %w", sheepdog.ErrNoQuorum)
	if _, err := c.Check(ctx, &api.CheckRequest{}, func(*api.CheckEvent) error { return nil }); !errors.Is(err, sheepdog.ErrNoQuorum) {
		t.Fatalf("error after events: %v", err)
	}
	b.Events = nil
	if _, err := c.Check(ctx, &api.CheckRequest{}, func(*api.CheckEvent) error { return nil }); !errors.Is(err, sheepdog.ErrNoQuorum) {
		t.Fatalf("error before events: %v", err)
	}
}

// TestErrorsCrossTheWire sends every sentinel through server and client.
func TestErrorsCrossTheWire(t *testing.T) {
	codes := map[string]bool{}
	for code := uint8(1); ; code++ {
		sentinel := errors.Unwrap(sheepdog.WireError(code, "x"))
		if sentinel == nil {
			break
		}
		b := apitest.New(1)
		b.Fail = func(string) error { return fmt.Errorf("do it: %w", sentinel) }
		c, _ := serve(t, b, api.Options{})
		_, err := c.Cluster(t.Context())
		var e *api.Error
		if !errors.Is(err, sentinel) || !errors.As(err, &e) || e.Message != "do it: "+sentinel.Error() || e.Code == api.CodeInternal || e.Status < 400 {
			t.Errorf("%v arrived as %#v", sentinel, err)
			continue
		}
		if codes[e.Code] {
			t.Errorf("code %s is used twice", e.Code)
		}
		codes[e.Code] = true
	}
	if len(codes) < 19 {
		t.Errorf("only %d codes", len(codes))
	}
}

func TestRefusedRequests(t *testing.T) {
	_, base := serve(t, apitest.New(1), api.Options{})
	big := `{"name":"` + strings.Repeat("x", 2<<20) + `"}`
	long := strings.Repeat("x", 256)
	for _, tt := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", "/v1/vdis", ``, 400, "invalid"},
		{"POST", "/v1/vdis", `{`, 400, "invalid"},
		{"POST", "/v1/vdis", `[]`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":1} {}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":1,"sise":2}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":-1}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":0}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":18014398509481985}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":1,"blockSizeShift":19}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":4503599627370497,"blockSizeShift":20}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"x","sizeBytes":1,"copies":"32"}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"","sizeBytes":1}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"a@b","sizeBytes":1}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"a\nb","sizeBytes":1}`, 400, "invalid"},
		{"POST", "/v1/vdis", `{"name":"` + long + `","sizeBytes":1}`, 400, "invalid"},
		{"POST", "/v1/vdis", "{\"name\":\"\xff\",\"sizeBytes\":1}", 400, "invalid"},
		{"POST", "/v1/vdis", big, 413, "too_large"},
		{"POST", "/v1/vdis/snapshot", `{"name":"x","tag":"12"}`, 400, "invalid"},
		{"POST", "/v1/vdis/clone", `{"source":"x","name":"y","noShare":true}`, 400, "invalid"},
		{"POST", "/v1/vdis/rollback", `{"name":"x","snapshot":"0"}`, 400, "invalid"},
		{"POST", "/v1/vdis/rollback", `{"name":"x","snapshot":"4294967296"}`, 400, "invalid"},
		{"DELETE", "/v1/vdis", ``, 400, "invalid"},
		{"DELETE", "/v1/vdis?name=x&snapshot=", ``, 400, "invalid"},
		{"DELETE", "/v1/vdis?name=x&snap=1", ``, 400, "invalid"},
		{"DELETE", "/v1/vdis?name=x&name=y", ``, 400, "invalid"},
		{"GET", "/v1/vdis/data?name=x&offset=-1", ``, 400, "invalid"},
		{"GET", "/v1/vdis/data?name=x&length=99999999999999999999", ``, 400, "invalid"},
		{"GET", "/v1/vdis?physical=perhaps", ``, 400, "invalid"},
		{"GET", "/v1/vdis?name=%zz", ``, 400, "invalid"},
		{"PUT", "/v1/vdis/data?name=nosuch", `x`, 404, "not_found"},
		{"PUT", "/v1/cluster/recovery", `{}`, 400, "invalid"},
		{"POST", "/v1/check", `{"snapshot":"a"}`, 400, "invalid"},
		{"DELETE", "/v1/nodes/zz", ``, 400, "invalid"},
		{"DELETE", "/v1/nodes/self?force=perhaps", ``, 400, "invalid"},
		{"DELETE", "/v1/nodes/self?froce=true", ``, 400, "invalid"},
		{"GET", "/v2/nodes", ``, 404, "no_such_route"},
		{"GET", "/", ``, 404, "no_such_route"},
	} {
		req, err := http.NewRequest(tt.method, base+tt.path, strings.NewReader(tt.body))
		must(t, req, err)
		resp, err := http.DefaultClient.Do(req)
		must(t, resp, err)
		var doc struct {
			Version int
			Error   api.Error
		}
		err = json.NewDecoder(resp.Body).Decode(&doc)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || doc.Error.Code != tt.code || doc.Version != 1 || doc.Error.Message == "" {
			t.Errorf("%s %s %.60s: status %d, %+v, %v", tt.method, tt.path, tt.body, resp.StatusCode, doc, err)
		}
	}
}

func TestWebPagesCannotChangeAnything(t *testing.T) {
	b := apitest.New(1)
	_, base := serve(t, b, api.Options{})
	req, err := http.NewRequest("POST", base+"/v1/cluster/shutdown", nil)
	must(t, req, err)
	req.Header.Set("Origin", "https://evil.example")
	resp, err := http.DefaultClient.Do(req)
	must(t, resp, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || b.Stops() != 0 {
		t.Fatalf("status %d, %d shutdowns", resp.StatusCode, b.Stops())
	}
}

func TestRequestLimit(t *testing.T) {
	b := apitest.New(1)
	enter, leave := make(chan struct{}), make(chan struct{})
	b.Fail = func(method string) error {
		if method == "Cluster" {
			enter <- struct{}{}
			<-leave
		}
		return nil
	}
	c, base := serve(t, b, api.Options{MaxRequests: 1})
	done := make(chan error, 1)
	go func() { _, err := c.Cluster(context.Background()); done <- err }()
	<-enter
	var e *api.Error
	if _, err := c.Nodes(t.Context()); !errors.As(err, &e) || e.Code != api.CodeTooMany {
		t.Errorf("second request: %v", err)
	}
	resp, err := http.Get(base + "/healthz")
	must(t, resp, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("health check: status %d", resp.StatusCode)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := c.Nodes(t.Context()); err != nil {
		t.Errorf("after the first ended: %v", err)
	}
}

func TestStalledBodyIsRefused(t *testing.T) {
	_, base := serve(t, apitest.New(1), api.Options{BodyTimeout: 20 * time.Millisecond})
	r, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequest("POST", base+"/v1/vdis", r)
	must(t, req, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, resp, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("status %d", resp.StatusCode)
	}
}

// Prometheus is answered in its own format, also while no other request is let in.
func TestMetricsAreServed(t *testing.T) {
	b := apitest.New(1)
	b.Exposed = "# HELP up Whether.\n# TYPE up gauge\nup 1\n"
	enter, leave := make(chan struct{}), make(chan struct{})
	failing := false
	b.Fail = func(method string) error {
		switch {
		case method == "Cluster":
			close(enter)
			<-leave
		case method == "Metrics" && failing:
			return sheepdog.ErrClosed
		}
		return nil
	}
	c, base := serve(t, b, api.Options{MaxRequests: 1})
	done := make(chan error, 1)
	go func() { _, err := c.Cluster(context.Background()); done <- err }()
	<-enter
	get := func() (*http.Response, string) {
		resp, err := http.Get(base + "/metrics")
		must(t, resp, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		must(t, text, err)
		return resp, string(text)
	}
	if resp, text := get(); resp.StatusCode != http.StatusOK || text != b.Exposed || resp.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("%d %v %q", resp.StatusCode, resp.Header, text)
	}
	failing = true
	if resp, text := get(); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("while the node ends: %d %q", resp.StatusCode, text)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReady(t *testing.T) {
	b := apitest.New(1)
	c, base := serve(t, b, api.Options{})
	for state, want := range map[api.ClusterState]int{api.StateRunning: 200, api.StateWaiting: 503} {
		b.Info.State = state
		resp, err := http.Get(base + "/readyz")
		must(t, resp, err)
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || string(text) != string(state)+"\n" {
			t.Errorf("%s: %d %q", state, resp.StatusCode, text)
		}
	}
	st, err := c.Status(t.Context())
	if must(t, st, err).Version != 1 || st.State != b.Info.State {
		t.Errorf("status: %+v", st)
	}
}

// TestNameThatIsNotUTF8MakesNoVDI: JSON has U+FFFD in place of what is not
// UTF-8, so that a VDI of that name would come to be, and not be found again by
// the one it was asked for with.
func TestNameThatIsNotUTF8MakesNoVDI(t *testing.T) {
	c, _ := serve(t, apitest.New(1), api.Options{})
	vdi, err := c.CreateVDI(t.Context(), &api.CreateRequest{Name: "\xff", SizeBytes: 1})
	if !errors.Is(err, sheepdog.ErrInvalid) || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("made %+v, %v", vdi, err)
	}
}

func TestClientErrors(t *testing.T) {
	dead := httptest.NewServer(nil)
	addr := strings.TrimPrefix(dead.URL, "http://")
	dead.Close()
	var connect *api.ConnectError
	_, err := api.NewClient(addr).Nodes(t.Context())
	if !errors.As(err, &connect) || connect.Addr != addr || !errors.Is(err, sheepdog.ErrUnreachable) {
		t.Errorf("nobody listens: %v", err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if _, err := api.NewClient(strings.TrimPrefix(other.URL, "http://")).Nodes(t.Context()); err == nil || !strings.Contains(err.Error(), "is it a sheep?") {
		t.Errorf("something else listens: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if _, err := api.NewClient(addr).Nodes(ctx); !errors.Is(err, reason) {
		t.Errorf("ended context: %v", err)
	}
	if _, err := api.NewClient("bad host").Nodes(t.Context()); err == nil {
		t.Error("bad address accepted")
	}
}

func TestCompareAddr(t *testing.T) {
	order := []string{"9.0.0.1:7000", "10.0.0.1:700", "10.0.0.1:7000", "10.0.0.1:10000", "[::1]:1", "a:1", "a:2", "b"}
	for i, a := range order {
		for j, b := range order {
			want := 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got := api.CompareAddr(a, b); got != want {
				t.Errorf("CompareAddr(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestQueryEscapingIsPlainHTTP(t *testing.T) {
	b := apitest.New(1)
	_, base := serve(t, b, api.Options{})
	b.Put(api.VDI{Name: "pool/a b", ID: 5, SizeBytes: 3}, []byte("abc"))
	resp, err := http.Get(base + "/v1/vdis/data?" + url.Values{"name": {"pool/a b"}}.Encode())
	must(t, resp, err)
	defer resp.Body.Close()
	if got, _ := io.ReadAll(resp.Body); string(got) != "abc" {
		t.Fatalf("read %q", got)
	}
}

// A node that was not formatted, or that waits for a quorum after a restart, has
// no configuration to tell; the answer was not understood.
func TestClusterWithoutAConfiguration(t *testing.T) {
	b := apitest.New(1)
	b.Info = api.Cluster{State: api.StateUnformatted}
	c, _ := serve(t, b, api.Options{})
	cl, err := c.Cluster(t.Context())
	if must(t, cl, err); cl.State != api.StateUnformatted || cl.Config.Policy.Copies != 0 {
		t.Fatalf("cluster: %+v", cl)
	}
}
