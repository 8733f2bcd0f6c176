package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestSignatureOfTheManual is the example "GET Object" of Amazon's manual for
// Signature Version 4.
func TestSignatureOfTheManual(t *testing.T) {
	req, err := http.NewRequest(http.MethodGet, "https://examplebucket.s3.amazonaws.com/test.txt", nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := sha256.Sum256(nil)
	req.Header.Set("Range", "bytes=0-9")
	req.Header.Set("X-Amz-Date", "20130524T000000Z")
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(empty[:]))
	text := toSign(req, []string{"host", "range", "x-amz-content-sha256", "x-amz-date"}, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request")
	got := hex.EncodeToString(mac(signingKey("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1"), text))
	if want := "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// fakeS3 is one bucket named b behind HTTP, which checks signatures and the sums
// of bodies, lists two keys a page, and fails every failEvery-th request.
type fakeS3 struct {
	t         *testing.T
	mu        sync.Mutex
	objects   map[string][]byte
	requests  int
	failEvery int
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.requests++; f.failEvery > 0 && f.requests%f.failEvery == 0 {
		http.Error(w, "<Error><Code>SlowDown</Code></Error>", http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(r.Body)
	sum := sha256.Sum256(body)
	if err != nil || !f.signed(r) || r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		http.Error(w, "<Error><Code>SignatureDoesNotMatch</Code></Error>", http.StatusForbidden)
		return
	}
	key, ok := strings.CutPrefix(r.URL.Path, "/b")
	if key = strings.TrimPrefix(key, "/"); !ok {
		http.Error(w, "<Error><Code>NoSuchBucket</Code></Error>", http.StatusNotFound)
		return
	}
	switch {
	case r.Method == http.MethodPut:
		f.objects[key] = body
	case key == "":
		f.page(w, r)
	case f.objects[key] == nil:
		http.Error(w, "<Error><Code>NoSuchKey</Code></Error>", http.StatusNotFound)
	default:
		w.Header().Set("Content-Length", strconv.Itoa(len(f.objects[key])))
		w.Write(f.objects[key])
	}
}

func (f *fakeS3) signed(r *http.Request) bool {
	auth := r.Header.Get("Authorization")
	_, scope, _ := strings.Cut(auth, "Credential=key/")
	scope, _, _ = strings.Cut(scope, ",")
	_, names, _ := strings.Cut(auth, "SignedHeaders=")
	names, _, _ = strings.Cut(names, ",")
	at := r.Header.Get("X-Amz-Date")
	if len(at) < 8 || scope != at[:8]+"/us-east-1/s3/aws4_request" {
		return false
	}
	want := hex.EncodeToString(mac(signingKey("secret", at[:8], "us-east-1"), toSign(r, strings.Split(names, ";"), at, scope)))
	return strings.HasSuffix(auth, "Signature="+want)
}

func (f *fakeS3) page(w http.ResponseWriter, r *http.Request) {
	var keys []string
	for k := range f.objects {
		if rest, ok := strings.CutPrefix(k, r.URL.Query().Get("prefix")); ok && !strings.Contains(rest, "/") && k > r.URL.Query().Get("continuation-token") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	out := listing{IsTruncated: len(keys) > 2}
	for _, k := range keys[:min(2, len(keys))] {
		out.Contents = append(out.Contents, struct{ Key string }{k})
		out.NextContinuationToken = k
	}
	if err := xml.NewEncoder(w).Encode(out); err != nil {
		f.t.Error(err)
	}
}

func (f *fakeS3) env(url string) func(string) string {
	return func(name string) string {
		return map[string]string{"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}[name]
	}
}

// TestBucket: a store in a bucket keeps, lists, verifies and finds damage, also
// when the server fails now and then.
func TestBucket(t *testing.T) {
	f := &fakeS3{t: t, objects: make(map[string][]byte), failEvery: 7}
	srv := httptest.NewServer(f)
	defer srv.Close()
	s, err := Open("s3://b/some prefix/ä", f.env(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	var last Sum
	for i := range 5 {
		m := &Manifest{Cluster: "0123456789abcdef", Name: "v", VID: "7c2b25", SnapshotID: uint32(i + 1), SizeBytes: 1 << 20, BlockSizeShift: 22, Copies: "3"}
		sum, added, err := s.Put(bytes.Repeat([]byte{byte(i / 2)}, 4096))
		if err != nil || added != (i%2 == 0) {
			t.Fatalf("chunk %d: added %v, %v", i, added, err)
		}
		last = sum
		m.Chunks = []Chunk{{Length: 4096, Sum: sum}}
		if err := s.Save(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SaveSet(&Set{Tag: "night"}); err != nil {
		t.Fatal(err)
	}
	again, err := Existing("s3://b/some prefix/ä/", f.env(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	list, _, err := again.List()
	if err != nil || len(list) != 5 {
		t.Fatalf("%d backups, %v", len(list), err)
	}
	if set, err := again.Set("night"); err != nil || set.Index != 1 {
		t.Error(set, err)
	}
	if err := again.Verify(list[4]); err != nil {
		t.Error(err)
	}
	f.objects["some prefix/ä/"+chunkName(last)][7] ^= 1
	if err := again.Verify(list[4]); !errors.Is(err, ErrCorrupted) {
		t.Errorf("a flipped byte: %v", err)
	}
	if _, err := again.space.stat("nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing object: %v", err)
	}
	wrong := f.env(srv.URL)
	bad, err := Open("s3://b", func(n string) string { return strings.Replace(wrong(n), "secret", "guess", 1) })
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := bad.Put([]byte("x")); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a wrong secret: %v", err)
	}
	other, err := Open("s3://other", f.env(srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Put([]byte("x")); err == nil || !strings.Contains(err.Error(), "NoSuchBucket") {
		t.Errorf("a missing bucket: %v", err)
	}
}

func TestBadBuckets(t *testing.T) {
	f := &fakeS3{}
	for _, address := range []string{"s3://", "s3:///x", "s3://a?b", "s3://a@b/c"} {
		if _, err := Open(address, f.env("http://127.0.0.1:1")); err == nil {
			t.Errorf("%s is accepted", address)
		}
	}
	if _, err := Open("s3://b", func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("no credentials: %v", err)
	}
	if _, err := Open("s3://b", f.env("ftp://x")); err == nil || !strings.Contains(err.Error(), "AWS_ENDPOINT_URL") {
		t.Errorf("bad endpoint: %v", err)
	}
}
