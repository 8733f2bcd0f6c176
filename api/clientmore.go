package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
)

// Attribute is the value of an attribute of a VDI or, with a selector, snapshot.
func (c *Client) Attribute(ctx context.Context, name string, snapshot Selector, key string) ([]byte, error) {
	q := url.Values{"name": {name}, "key": {key}}
	if snapshot != "" {
		q.Set("snapshot", string(snapshot))
	}
	out, err := get[Attribute](ctx, c, "/v1/vdis/attribute", q)
	if err != nil {
		return nil, err
	}
	return out.Value, nil
}

// Attributes lists the keys of a VDI or, with a selector, snapshot.
func (c *Client) Attributes(ctx context.Context, name string, snapshot Selector) (*AttributeList, error) {
	q := url.Values{"name": {name}}
	if snapshot != "" {
		q.Set("snapshot", string(snapshot))
	}
	return get[AttributeList](ctx, c, "/v1/vdis/attributes", q)
}

// SetAttribute sets or deletes an attribute.
func (c *Client) SetAttribute(ctx context.Context, req *SetAttributeRequest) error {
	return c.call(ctx, http.MethodPut, "/v1/vdis/attribute", nil, req, nil)
}

// SetVDICopies has the data of a snapshot erasure coded in the background.
func (c *Client) SetVDICopies(ctx context.Context, req *VDICopiesRequest) error {
	return c.call(ctx, http.MethodPut, "/v1/vdis/copies", nil, req, nil)
}

// RenameVDI gives a VDI and its snapshots another name.
func (c *Client) RenameVDI(ctx context.Context, req *RenameRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/vdis/rename", nil, req, nil)
}

// Locks lists the VDIs that a gateway coordinates.
func (c *Client) Locks(ctx context.Context) (*LockList, error) {
	return get[LockList](ctx, c, "/v1/locks", nil)
}

// Unlock takes a VDI from its gateway.
func (c *Client) Unlock(ctx context.Context, req *UnlockRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/locks/release", nil, req, nil)
}

func (q *ObjectQuery) values() url.Values {
	v := url.Values{"name": {q.Name}, "index": {decimal(uint64(q.Index))}}
	if q.Snapshot != "" {
		v.Set("snapshot", string(q.Snapshot))
	}
	return v
}

// LocateObject says which nodes hold an object, and which should.
func (c *Client) LocateObject(ctx context.Context, q *ObjectQuery) (*ObjectLocation, error) {
	return get[ObjectLocation](ctx, c, "/v1/vdis/object", q.values())
}

// MapObjects lists what a VDI can read, one page of it.
func (c *Client) MapObjects(ctx context.Context, q *ObjectQuery) (*ObjectMap, error) {
	return get[ObjectMap](ctx, c, "/v1/vdis/objects", q.values())
}

// TrackObject says where every known epoch wanted an object.
func (c *Client) TrackObject(ctx context.Context, q *ObjectQuery) (*ObjectTrack, error) {
	return get[ObjectTrack](ctx, c, "/v1/vdis/track", q.values())
}

// ChangedObjects lists where two states of a VDI can differ, one page of it.
func (c *Client) ChangedObjects(ctx context.Context, q *ChangeQuery) (*ChangeList, error) {
	v := url.Values{"name": {q.Name}, "index": {decimal(uint64(q.Index))}}
	if q.From != "" {
		v.Set("from", string(q.From))
	}
	if q.To != "" {
		v.Set("to", string(q.To))
	}
	return get[ChangeList](ctx, c, "/v1/vdis/changes", v)
}

// SetCopies changes the default redundancy of VDIs created later.
func (c *Client) SetCopies(ctx context.Context, req *CopiesRequest) error {
	return c.call(ctx, http.MethodPut, "/v1/cluster/copies", nil, req, nil)
}

// Reweight sets the weight of every node to its share of the space.
func (c *Client) Reweight(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/cluster/reweight", nil, nil, nil)
}

// SetVNodes sets the weight of the node.
func (c *Client) SetVNodes(ctx context.Context, req *VNodesRequest) error {
	return c.call(ctx, http.MethodPut, "/v1/nodes/self/vnodes", nil, req, nil)
}

// Throttle is the bound of the node's recovery.
func (c *Client) Throttle(ctx context.Context) (*Throttle, error) {
	return get[Throttle](ctx, c, "/v1/nodes/self/throttle", nil)
}

// SetThrottle bounds the node's recovery.
func (c *Client) SetThrottle(ctx context.Context, t *Throttle) error {
	return c.call(ctx, http.MethodPut, "/v1/nodes/self/throttle", nil, t, nil)
}

// LogLevel is how much the node logs.
func (c *Client) LogLevel(ctx context.Context) (*LogLevel, error) {
	return get[LogLevel](ctx, c, "/v1/nodes/self/log", nil)
}

// SetLogLevel changes how much the node logs.
func (c *Client) SetLogLevel(ctx context.Context, l *LogLevel) error {
	return c.call(ctx, http.MethodPut, "/v1/nodes/self/log", nil, l, nil)
}

// Stats counts what the node has served.
func (c *Client) Stats(ctx context.Context) (*Stats, error) {
	return get[Stats](ctx, c, "/v1/nodes/self/stats", nil)
}

// PlugDisks adds disks to the node.
func (c *Client) PlugDisks(ctx context.Context, req *DisksRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/nodes/self/disks/plug", nil, req, nil)
}

// UnplugDisks empties disks of the node and takes them out.
func (c *Client) UnplugDisks(ctx context.Context, req *DisksRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/nodes/self/disks/unplug", nil, req, nil)
}

// Disks lists the disks of the node, or of all nodes.
func (c *Client) Disks(ctx context.Context, all bool) (*DiskList, error) {
	v := url.Values{}
	if all {
		v.Set("all", "true")
	}
	return get[DiskList](ctx, c, "/v1/nodes/disks", v)
}

// lines posts a request and hands the lines of the answer to visit, until it
// returns errLastLine or another error.
func (c *Client) lines(ctx context.Context, path string, data []byte, visit func([]byte) error) error {
	req, err := c.request(ctx, http.MethodPost, path, nil, bytes.NewReader(data))
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(make([]byte, 0, 64<<10), maxEventLine)
	for scan.Scan() {
		switch err := visit(scan.Bytes()); {
		case errors.Is(err, errLastLine):
			return nil
		case err != nil:
			return err
		}
	}
	if err := scan.Err(); err != nil {
		return c.streamError(ctx, 0, err)
	}
	return nil
}
