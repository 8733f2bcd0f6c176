package peer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// Pool holds a Client per remote node. It is the only sender of heartbeats.
type Pool struct {
	opts    Options
	dialer  Dialer
	buffers buffers
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // dials, readers and the ticker

	mu      sync.Mutex
	clients map[clientKey]*Client
	closed  bool

	latest [latestClients]atomic.Pointer[Client] // of clients; for those without the lock
}

// latestClients is how many clients, by the incarnation, are found without the lock.
const latestClients = 64

// clientKey names one life of a node at an address: requests for an older life
// must not reach a newer one.
type clientKey struct {
	node        sheepdog.NodeID
	incarnation sheepdog.Incarnation
	addr        string
}

func keyOf(m sheepdog.Member) clientKey {
	return clientKey{m.ID, m.Incarnation, m.Addr}
}

// NewPool makes a pool that dials through network. It runs until Close.
func NewPool(network sheepdog.Network, opts Options) *Pool {
	p := &Pool{opts: opts.withDefaults(), clients: make(map[clientKey]*Client)}
	p.dialer = Dialer{Network: network, Cluster: p.opts.Cluster}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.heartbeats)
	return p
}

// Client is the node as this member of a view: its id, incarnation and address.
// If another life of the node, or another node, answers there, calls end with
// sheepdog.ErrUnreachable.
func (p *Pool) Client(m sheepdog.Member) *Client { return p.client(keyOf(m)) }

// Replica is Client, for those who only want replicas.
func (p *Pool) Replica(m sheepdog.Member) sheepdog.Replica { return p.Client(m) }

// Call runs a control method at whatever node is at addr.
func (p *Pool) Call(ctx context.Context, addr, method string, body []byte) ([]byte, error) {
	return p.client(clientKey{addr: addr}).Call(ctx, method, body)
}

// Redial tells that the node at addr was heard of: calls to it do not fail for an
// earlier dial that did.
func (p *Pool) Redial(addr string) {
	p.mu.Lock()
	c := p.clients[clientKey{addr: addr}]
	p.mu.Unlock()
	if c != nil {
		c.small.redial()
		c.bulk.redial()
	}
}

func (p *Pool) client(key clientKey) *Client {
	latest := &p.latest[key.incarnation%latestClients]
	if c := latest.Load(); c != nil && c.incarnation == key.incarnation && c.node == key.node && c.addr == key.addr {
		return c
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[key]
	if c == nil {
		c = newClient(p, key)
		if p.closed {
			c.close()
			return c
		}
		p.clients[key] = c
	}
	latest.Store(c)
	return c
}

// Retain closes the connections to all nodes but the given members. Connections
// made by address only are kept while they are used.
func (p *Pool) Retain(members []sheepdog.Member) {
	keep := make(map[clientKey]bool, len(members))
	for _, m := range members {
		keep[keyOf(m)] = true
	}
	p.drop(func(key clientKey, _ *Client) bool { return key.node != 0 && !keep[key] })
}

// drop closes the clients for which gone is true.
func (p *Pool) drop(gone func(clientKey, *Client) bool) {
	var out []*Client
	p.mu.Lock()
	for key, c := range p.clients {
		if gone(key, c) {
			delete(p.clients, key)
			p.latest[key.incarnation%latestClients].CompareAndSwap(c, nil)
			out = append(out, c)
		}
	}
	p.mu.Unlock()
	for _, c := range out {
		c.close()
	}
}

// Close ends all connections and waits for their goroutines.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.drop(func(clientKey, *Client) bool { return true })
	p.wg.Wait()
}

// heartbeats ticks all connections.
func (p *Pool) heartbeats() {
	t := time.NewTicker(p.opts.Heartbeat)
	defer t.Stop()
	var all []*Client
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-t.C:
		}
		all = p.snapshot(all[:0])
		idle := make(map[*Client]bool)
		for _, c := range all {
			if c.tick() >= idleTicks && c.node == 0 {
				idle[c] = true
			}
			if len(all) > meshNodes {
				c.rest()
			}
		}
		if len(idle) > 0 {
			p.drop(func(_ clientKey, c *Client) bool { return idle[c] })
		}
	}
}

func (p *Pool) snapshot(out []*Client) []*Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		out = append(out, c)
	}
	return out
}

// report tells the owner of a connection that was not ended here.
func (p *Pool) report(e *BrokenError) {
	if e.Reason != ClosedHere {
		p.opts.OnBroken(e)
	}
}
