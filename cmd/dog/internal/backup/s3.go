package backup

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// bucket is a space in an S3-compatible object store, reached by path-style
// requests that are signed with AWS Signature Version 4 (docs/adr says why there
// is no library). An object appears whole: S3 has no half-written ones.
type bucket struct {
	endpoint *url.URL
	name     string
	prefix   string // with a slash at its end, or empty
	key      string
	secret   string
	token    string // of temporary credentials; may be empty
	region   string
	client   *http.Client
	now      func() time.Time
}

// requestTimeout bounds one request, of at most a chunk or a manifest.
const requestTimeout = 5 * time.Minute

// requestTries is how often a request is sent that the server could not answer.
const requestTries = 4

// openBucket reads s3://BUCKET[/PREFIX]; the rest comes from the environment, as
// for other clients of S3.
func openBucket(address string, getenv func(string) string) (*bucket, error) {
	rest, _ := strings.CutPrefix(address, s3Scheme)
	name, prefix, _ := strings.Cut(rest, "/")
	if name == "" || strings.ContainsAny(name, "?#%@:\\ ") {
		return nil, fmt.Errorf("%s names no bucket: want s3://BUCKET or s3://BUCKET/PREFIX", address)
	}
	b := &bucket{name: name, key: getenv("AWS_ACCESS_KEY_ID"), secret: getenv("AWS_SECRET_ACCESS_KEY"), token: getenv("AWS_SESSION_TOKEN"),
		region: getenv("AWS_REGION"), client: &http.Client{Timeout: requestTimeout}, now: time.Now}
	if b.prefix = strings.Trim(prefix, "/"); b.prefix != "" {
		b.prefix += "/"
	}
	if b.key == "" || b.secret == "" {
		return nil, errors.New("no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	if b.region == "" {
		b.region = "us-east-1"
	}
	endpoint := getenv("AWS_ENDPOINT_URL")
	if endpoint == "" {
		endpoint = "https://s3." + b.region + ".amazonaws.com"
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("AWS_ENDPOINT_URL '%s' is no address: want http://HOST:PORT or https://HOST", endpoint)
	}
	b.endpoint = u
	return b, nil
}

func (b *bucket) String() string { return s3Scheme + b.name + "/" + b.prefix }

func (b *bucket) stat(name string) (int64, error) {
	resp, err := b.send(http.MethodHead, b.prefix+name, nil, nil)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.ContentLength, nil
}

func (b *bucket) read(name string, limit int64) ([]byte, error) {
	resp, err := b.send(http.MethodGet, b.prefix+name, nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s%s: %w", b, name, err)
	}
	if int64(len(data)) > limit {
		return nil, corrupted("%s has more than %d bytes", name, limit)
	}
	return data, nil
}

func (b *bucket) write(name string, data []byte) error {
	resp, err := b.send(http.MethodPut, b.prefix+name, nil, data)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// listing is what ListObjectsV2 answers.
type listing struct {
	Contents              []struct{ Key string }
	IsTruncated           bool
	NextContinuationToken string
}

// maxListing bounds one page of a list, in bytes.
const maxListing = 16 << 20

func (b *bucket) list(dir string) ([]string, error) {
	var out []string
	q := url.Values{"list-type": {"2"}, "prefix": {b.prefix + dir + "/"}, "delimiter": {"/"}}
	for {
		page, err := b.page(q)
		if err != nil {
			return nil, err
		}
		for _, c := range page.Contents {
			if name, ok := strings.CutPrefix(c.Key, b.prefix); ok {
				out = append(out, name)
			}
		}
		if !page.IsTruncated || page.NextContinuationToken == "" {
			slices.Sort(out)
			return out, nil
		}
		q.Set("continuation-token", page.NextContinuationToken)
	}
}

func (b *bucket) page(q url.Values) (*listing, error) {
	resp, err := b.send(http.MethodGet, "", q, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	page := &listing{}
	if err := xml.NewDecoder(io.LimitReader(resp.Body, maxListing)).Decode(page); err != nil {
		return nil, fmt.Errorf("list of %s is not understood: %w", b, err)
	}
	return page, nil
}

// send sends one request, again if the server could not answer: all are
// idempotent. An answer of 404 is fs.ErrNotExist.
func (b *bucket) send(method, key string, q url.Values, body []byte) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := b.once(method, key, q, body)
		if err == nil && resp.StatusCode < 300 {
			return resp, nil
		}
		again := err != nil
		if err == nil {
			err, again = b.refusal(method, key, resp)
		}
		if !again || try == requestTries {
			return nil, err
		}
		time.Sleep(time.Duration(try*try) * 200 * time.Millisecond)
	}
}

// refusal makes an error of an answer, and says whether to ask again.
func (b *bucket) refusal(method, key string, resp *http.Response) (err error, again bool) {
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	var reason struct{ Code, Message string }
	_ = xml.Unmarshal(text, &reason) // only an explanation; the status says enough
	err = fmt.Errorf("%s of %s/%s: %s: %s %s", method, b.name, key, resp.Status, reason.Code, reason.Message)
	if resp.StatusCode == http.StatusNotFound && reason.Code != "NoSuchBucket" {
		err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return err, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
}

func (b *bucket) once(method, key string, q url.Values, body []byte) (*http.Response, error) {
	u := *b.endpoint
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + b.name
	if key != "" || method != http.MethodGet {
		u.Path += "/" + key
	}
	u.RawPath = escapePath(u.Path)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	req, err := http.NewRequest(method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	b.sign(req, sha256.Sum256(body))
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", b.endpoint.Host, err)
	}
	return resp, nil
}

// escapePath escapes as the signature wants it: everything but unreserved
// characters and slashes.
func escapePath(path string) string {
	var out strings.Builder
	for _, c := range []byte(path) {
		if c == '/' || c == '-' || c == '.' || c == '_' || c == '~' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

const (
	signAlgorithm = "AWS4-HMAC-SHA256"
	signTime      = "20060102T150405Z"
	s3Scheme      = "s3://"
)

// sign adds the headers of Signature Version 4 (docs.aws.amazon.com, "Signature
// calculations for the Authorization header"). The server checks the body
// against its hash, so that a damaged upload is refused.
func (b *bucket) sign(req *http.Request, bodySum [sha256.Size]byte) {
	at := b.now().UTC().Format(signTime)
	req.Header.Set("X-Amz-Date", at)
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(bodySum[:]))
	if b.token != "" {
		req.Header.Set("X-Amz-Security-Token", b.token)
	}
	names := []string{"host", "x-amz-content-sha256", "x-amz-date"}
	if b.token != "" {
		names = append(names, "x-amz-security-token")
	}
	scope := strings.Join([]string{at[:8], b.region, "s3", "aws4_request"}, "/")
	signature := hex.EncodeToString(mac(signingKey(b.secret, at[:8], b.region), toSign(req, names, at, scope)))
	req.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s", signAlgorithm, b.key, scope, strings.Join(names, ";"), signature))
}

// toSign is the string that is signed: of the request as both ends see it.
func toSign(req *http.Request, headers []string, at, scope string) string {
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", req.Method, req.URL.EscapedPath(), req.URL.RawQuery)
	for _, name := range headers {
		value := req.Header.Get(name)
		if name == "host" {
			value = req.Host
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.TrimSpace(value))
	}
	fmt.Fprintf(&canonical, "\n%s\n%s", strings.Join(headers, ";"), req.Header.Get("X-Amz-Content-Sha256"))
	sum := sha256.Sum256([]byte(canonical.String()))
	return strings.Join([]string{signAlgorithm, at, scope, hex.EncodeToString(sum[:])}, "\n")
}

func signingKey(secret, day, region string) []byte {
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, region, "s3", "aws4_request"} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
