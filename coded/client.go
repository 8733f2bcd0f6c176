package coded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sheepdog"
)

// Config of a Client.
type Config struct {
	Self    sheepdog.NodeID
	Views   sheepdog.Views
	Peers   Peers
	Layers  Layers
	Ring    Ring
	Suspect func(sheepdog.Member) // told of members that could not be reached; may be nil
	Log     *slog.Logger
}

// Client reads and encodes objects from the strips of all nodes. It is safe for
// concurrent use.
type Client struct {
	cfg Config

	mu      sync.Mutex
	codecs  map[sheepdog.Policy]*Codec
	headers map[headerKey]*header
	found   map[stripKey]sheepdog.NodeID // where strips are that are not at home
}

type headerKey struct {
	layer   sheepdog.LayerID
	index   sheepdog.Index
	segment uint32
}

type stripKey struct {
	layer sheepdog.LayerID // of the strip
	index sheepdog.Index
}

// cachedEntries bounds each of the caches; a header takes about 4 KiB.
const cachedEntries = 4096

// NewClient makes a client.
func NewClient(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, codecs: make(map[sheepdog.Policy]*Codec), headers: make(map[headerKey]*header), found: make(map[stripKey]sheepdog.NodeID)}
}

func (c *Client) codec(p sheepdog.Policy) (*Codec, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.codecs[p]; k != nil {
		return k, nil
	}
	k, err := NewCodec(p)
	if err == nil {
		c.codecs[p] = k
	}
	return k, err
}

// remember puts an entry into a bounded cache; a full one starts over.
func remember[K comparable, V any](m map[K]V, k K, v V) {
	if len(m) >= cachedEntries {
		clear(m)
	}
	m[k] = v
}

// Pauses of the retry loop.
const (
	retryMin = 10 * time.Millisecond
	retryMax = 500 * time.Millisecond
)

// retry runs attempt until it succeeds, the layer is deleted, the object is lost, or
// ctx ends.
func (c *Client) retry(ctx context.Context, id sheepdog.LayerID, attempt func(v *sheepdog.View, l *Layer) error) error {
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		v := c.cfg.Views.View()
		err := error(sheepdog.ErrNotFormatted)
		if v != nil {
			l, ok := c.cfg.Layers.Coded(id)
			if !ok {
				return gone(id)
			}
			err = attempt(v, &l)
		}
		if err == nil || errors.Is(err, sheepdog.ErrInvalid) || errors.Is(err, errLost) {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-c.cfg.Views.Changed(v):
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		}
		t.Stop()
	}
}

// note passes an unreachable member on as a suspicion.
func (c *Client) note(m sheepdog.Member, err error) {
	if errors.Is(err, sheepdog.ErrUnreachable) && c.cfg.Suspect != nil {
		c.cfg.Suspect(m)
	}
}

// listPage is how many strips are asked for at a time.
const listPage = 16384

// list visits the strips of a layer that a member holds.
func (c *Client) list(ctx context.Context, v *sheepdog.View, m sheepdog.Member, l *Layer, visit func(sheepdog.ListEntry)) error {
	req := &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: v.Revision}, Policy: l.Policy, Layer: l.ID, Limit: listPage}
	for {
		reply, err := c.cfg.Peers.Replica(m).List(ctx, req)
		if err != nil {
			c.note(m, err)
			return fmt.Errorf("list strips on node %s (%s): %w", m.ID, m.Addr, err)
		}
		for _, e := range reply.Entries {
			visit(e)
		}
		if !reply.More || len(reply.Entries) == 0 {
			return nil
		}
		req.After = reply.Entries[len(reply.Entries)-1]
	}
}

// storing are the members that may hold strips.
func storing(v *sheepdog.View) []sheepdog.Member {
	var out []sheepdog.Member
	for _, m := range v.Members {
		if m.VNodes > 0 {
			out = append(out, m)
		}
	}
	return out
}

// Indexes visits the index of every object of a complete coded layer, each once, and
// of those that may be lost. It waits until it has found as many as are left.
func (c *Client) Indexes(ctx context.Context, id sheepdog.LayerID, visit func(sheepdog.Index)) error {
	var set map[sheepdog.Index]bool
	err := c.retry(ctx, id, func(v *sheepdog.View, l *Layer) error {
		set = make(map[sheepdog.Index]bool)
		var mu sync.Mutex
		var wg sync.WaitGroup
		members := storing(v)
		errs := make([]error, len(members))
		for i, m := range members {
			wg.Go(func() {
				errs[i] = c.list(ctx, v, m, l, func(e sheepdog.ListEntry) {
					mu.Lock()
					set[e.Object.Index] = true
					mu.Unlock()
				})
			})
		}
		wg.Wait()
		for _, i := range l.Lost {
			delete(set, i)
		}
		if left := l.left(); uint64(len(set)) < left {
			return fmt.Errorf("found %d of %d objects of coded layer %d: %w", len(set), left, id, errors.Join(append(errs, errMissing)...))
		}
		for _, i := range l.Lost {
			set[i] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range set {
		visit(i)
	}
	return nil
}

// errLost is returned, with sheepdog.ErrIO, for objects that an operator has given up.
var errLost = fmt.Errorf("too few strips are left, and the nodes with the others were given up: %w", sheepdog.ErrIO)

// errMissing is returned inside the package when too few strips are found.
var errMissing = errors.New("too few strips are reachable")
