package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"sheepdog"
)

// Limits of the client.
const (
	dialTimeout     = 10 * time.Second
	continueTimeout = time.Second
	maxReply        = 256 << 20 // bytes of a JSON answer: about 800,000 VDIs
	maxErrorReply   = 1 << 20
)

// Client speaks to one node. It has no time-out of its own but for connecting:
// a request lasts as long as its context and the node live. It repeats only reads
// whose idle connection turned out to be closed.
// It is safe for concurrent use.
type Client struct {
	addr string
	http *http.Client

	silence  time.Duration // 0: nobody is told
	onSilent func()
}

// NewClient makes a client of the node at addr (host:port); it connects when
// first used. Close it at the end.
func NewClient(addr string) *Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return NewClientDial(addr, func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, addr)
	})
}

// NewClientDial is NewClient with connections made by dial.
func NewClientDial(addr string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Client {
	return &Client{addr: addr, http: &http.Client{
		// Redirects are no part of the API; a body must not go anywhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
				conn, err := dial(ctx, network, to)
				if err != nil {
					return nil, &ConnectError{Addr: addr, Err: err}
				}
				return conn, nil
			},
			DisableCompression:     true,
			ExpectContinueTimeout:  continueTimeout,
			MaxResponseHeaderBytes: maxHeader,
		},
	}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Addr is the host:port that the client speaks to.
func (c *Client) Addr() string { return c.addr }

// OnSilence has tell called, by a goroutine of its own, for every request that has had
// no answer for so long. It must not block. Set it before the first request.
func (c *Client) OnSilence(after time.Duration, tell func()) { c.silence, c.onSilent = after, tell }

// ConnectError is returned when no connection to the node could be made; the
// request was not sent.
type ConnectError struct {
	Addr string
	Err  error
}

func (e *ConnectError) Error() string { return fmt.Sprintf("connect to %s: %v", e.Addr, e.Err) }

// Unwrap is both what happened and sheepdog.ErrUnreachable.
func (e *ConnectError) Unwrap() []error { return []error{e.Err, sheepdog.ErrUnreachable} }

// Status describes the node.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return get[Status](ctx, c, "/v1/status", nil)
}

// Cluster describes the cluster.
func (c *Client) Cluster(ctx context.Context) (*Cluster, error) {
	return get[Cluster](ctx, c, "/v1/cluster", nil)
}

// Format makes a new cluster and returns when VDIs can be created.
func (c *Client) Format(ctx context.Context, req *FormatRequest) (*Cluster, error) {
	return post[Cluster](ctx, c, "/v1/cluster/format", req)
}

// Shutdown stops all nodes; they may live on for a moment.
func (c *Client) Shutdown(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/cluster/shutdown", nil, nil, nil)
}

// SetRecovery lets recovery run, or pauses it.
func (c *Client) SetRecovery(ctx context.Context, enabled bool) error {
	return c.call(ctx, http.MethodPut, "/v1/cluster/recovery", nil, &RecoverySetting{Enabled: &enabled}, nil)
}

// Force has the cluster go on without nodes that are lost for ever.
func (c *Client) Force(ctx context.Context, req *ForceRequest) (*ForceReport, error) {
	return post[ForceReport](ctx, c, "/v1/cluster/force", req)
}

// Nodes lists the nodes in the order in which users number them.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	out, err := get[NodeList](ctx, c, "/v1/nodes", nil)
	if err != nil {
		return nil, err
	}
	return out.Nodes, nil
}

// Capacities lists the space of all nodes.
func (c *Client) Capacities(ctx context.Context) (*Capacities, error) {
	return get[Capacities](ctx, c, "/v1/nodes/capacity", nil)
}

// KillNode makes a node leave.
func (c *Client) KillNode(ctx context.Context, ref NodeRef) error {
	id := "self"
	if !ref.Self {
		id = ref.ID.String()
	}
	q := url.Values{}
	if ref.Force {
		q.Set("force", "true")
	}
	return c.call(ctx, http.MethodDelete, "/v1/nodes/"+id, q, nil, nil)
}

// Recovery lists the nodes that are not complete.
func (c *Client) Recovery(ctx context.Context) ([]NodeRecovery, error) {
	out, err := get[RecoveryList](ctx, c, "/v1/recovery", nil)
	if err != nil {
		return nil, err
	}
	return out.Nodes, nil
}

// VDIs lists working VDIs and snapshots in ascending order of ids.
func (c *Client) VDIs(ctx context.Context, q *VDIQuery) ([]VDI, error) {
	v := url.Values{}
	if q.Name != "" {
		v.Set("name", q.Name)
	}
	if q.Brief {
		v.Set("brief", "true")
	}
	if q.Physical {
		v.Set("physical", "true")
	}
	if q.Object != nil {
		v.Set("object", q.Object.String())
	}
	out, err := get[VDIList](ctx, c, "/v1/vdis", v)
	if err != nil {
		return nil, err
	}
	return out.VDIs, nil
}

// CreateVDI makes a VDI.
func (c *Client) CreateVDI(ctx context.Context, req *CreateRequest) (*VDI, error) {
	return postVDI(ctx, c, "/v1/vdis", req)
}

// SnapshotVDI freezes the working VDI.
func (c *Client) SnapshotVDI(ctx context.Context, req *SnapshotRequest) (*SnapshotResult, error) {
	return post[SnapshotResult](ctx, c, "/v1/vdis/snapshot", req)
}

// CloneVDI makes a new VDI on a snapshot.
func (c *Client) CloneVDI(ctx context.Context, req *CloneRequest) (*VDI, error) {
	return postVDI(ctx, c, "/v1/vdis/clone", req)
}

// DeleteVDI deletes a working VDI or one snapshot.
func (c *Client) DeleteVDI(ctx context.Context, req *DeleteRequest) error {
	v := url.Values{"name": {req.Name}}
	if req.Snapshot != "" {
		v.Set("snapshot", string(req.Snapshot))
	}
	if req.Purge {
		v.Set("purge", "true")
	}
	return c.call(ctx, http.MethodDelete, "/v1/vdis", v, nil, nil)
}

// RollbackVDI puts the working VDI back to a snapshot.
func (c *Client) RollbackVDI(ctx context.Context, req *RollbackRequest) (*VDI, error) {
	return postVDI(ctx, c, "/v1/vdis/rollback", req)
}

// ResizeVDI grows a VDI.
func (c *Client) ResizeVDI(ctx context.Context, req *ResizeRequest) (*VDI, error) {
	return postVDI(ctx, c, "/v1/vdis/resize", req)
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (*T, error) {
	out := new(T)
	return out, c.call(ctx, http.MethodGet, path, q, nil, out)
}

func post[T any](ctx context.Context, c *Client, path string, req any) (*T, error) {
	out := new(T)
	return out, c.call(ctx, http.MethodPost, path, nil, req, out)
}

func postVDI(ctx context.Context, c *Client, path string, req any) (*VDI, error) {
	out, err := post[VDIReply](ctx, c, path, req)
	if err != nil {
		return nil, err
	}
	return &out.VDI, nil
}

// call sends in as JSON, if any, and decodes the answer into out, if any.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	var reqBody io.Reader
	if in != nil {
		data, err := encode(in)
		if err != nil {
			return err
		}
		reqBody = bytes.NewReader(data)
	}
	req, err := c.request(ctx, method, path, q, reqBody)
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxReply))
	if err := dec.Decode(out); err != nil {
		return fmt.Errorf("answer of %s to %s %s is not understood: %w", c.addr, method, path, err)
	}
	return nil
}

// encode makes the body of a request. One that is known to be refused is not
// sent: in JSON, text that is not UTF-8 would become another text, which may be
// allowed.
func encode(req any) ([]byte, error) {
	if c, ok := req.(checker); ok {
		if err := c.check(); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return data, nil
}

func (c *Client) request(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Request, error) {
	u := url.URL{Scheme: "http", Host: c.addr, Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", c.addr, err)
	}
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

// send returns the answer if it is a good one; its body is the caller's to
// close. Otherwise the error is an *Error, a *ConnectError, or tells of a
// connection that broke.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	if c.silence > 0 {
		defer time.AfterFunc(c.silence, c.onSilent).Stop()
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(req.Context(), err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var doc errorDocument
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorReply))
	if json.Unmarshal(data, &doc) != nil || doc.Error == nil {
		return nil, fmt.Errorf("%s answered HTTP status %d without an error document; is it a sheep?", c.addr, resp.StatusCode)
	}
	doc.Error.Status = resp.StatusCode
	return nil, doc.Error
}

// transportError strips the URL from what the HTTP client says and tells an
// ended context from a broken connection.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var connect *ConnectError
	if errors.As(err, &connect) {
		return connect
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%w: the connection to %s broke before it answered: %v", sheepdog.ErrUnreachable, c.addr, err)
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
