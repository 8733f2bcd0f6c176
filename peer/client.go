package peer

import (
	"context"
	"errors"
	"fmt"

	"sheepdog"
	"sheepdog/internal/rawio"

	"golang.org/x/sync/semaphore"
)

// callBudget bounds the bytes of requests and replies in flight per class of
// call and node; a call counts for callCost at least.
const (
	callBudget = 64 << 20
	callCost   = callBudget / 1024
)

// class keeps kinds of calls from starving each other: a forward may wait for
// replicas of other nodes, a control call for a quorum, a flush for a disk.
type class uint8

const (
	classRead class = iota
	classFlush
	classForward
	classControl
	classes = 4
)

// Client is a remote node: its replicas, and its gateway for forwarded I/O. It
// connects when it is first used, and again after the connection broke. Methods
// are safe for concurrent use.
type Client struct {
	pool        *Pool
	node        sheepdog.NodeID      // 0: whoever is there
	incarnation sheepdog.Incarnation // 0: any
	addr        string
	ctx         context.Context // ends at close; bounds dials only
	cancel      context.CancelFunc
	small, bulk lane
	budgets     [classes]*semaphore.Weighted
}

var (
	_ sheepdog.Replica   = (*Client)(nil)
	_ sheepdog.Forwarder = (*Client)(nil)
)

func newClient(p *Pool, key clientKey) *Client {
	c := &Client{pool: p, node: key.node, incarnation: key.incarnation, addr: key.addr}
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	c.small.client, c.bulk.client = c, c
	for i := range c.budgets {
		c.budgets[i] = semaphore.NewWeighted(callBudget)
	}
	return c
}

// connect dials and greets.
func (c *Client) connect(ctx context.Context) (*link, error) {
	o := &c.pool.opts
	ctx, cancel := context.WithTimeout(ctx, o.HandshakeTimeout)
	defer cancel()
	conn, _, err := c.pool.dialer.dial(ctx, KindPeer, c.addr)
	if err != nil {
		return nil, err
	}
	l := &link{node: c.node, addr: c.addr, conn: conn, live: newLiveness(o)}
	l.live.busy.Store(true)
	raw := rawio.New(conn)
	l.out = newOutQueue(conn, raw)
	src := watched{conn, l.live}
	if raw != nil {
		src.src = raw
	}
	l.in = newInBuffer(src, &c.pool.buffers)
	stop := closeOnDone(ctx, conn)
	err = c.greet(l)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		l.in.close()
		return nil, err
	}
	return l, nil
}

// greet exchanges hellos.
func (c *Client) greet(l *link) error {
	o := &c.pool.opts
	ours := hello{node: o.Node, incarnation: o.Incarnation, want: c.node, wantIncarnation: c.incarnation, cluster: o.Cluster()}
	if _, err := l.conn.Write(helloFrame(kindHello, ours)); err != nil {
		return err
	}
	theirs, err := readHello(&l.in, kindHello|kindReply)
	if err != nil {
		return err
	}
	if !ours.isFor(theirs.node, theirs.incarnation) {
		return wrongNode(ours, theirs.node, theirs.incarnation)
	}
	l.remote = theirs
	l.agreed, err = agree(ours.cluster, theirs.cluster)
	return err
}

// wrongNode tells a client that whom it wanted is not there.
func wrongNode(h hello, node sheepdog.NodeID, inc sheepdog.Incarnation) error {
	return fmt.Errorf("%w: wanted node %s incarnation %s, found node %s incarnation %s", sheepdog.ErrUnreachable, h.want, h.wantIncarnation, node, inc)
}

func helloFrame(kind frameKind, h hello) []byte {
	meta := appendHello(nil, h)
	f := frame{kind: kind, meta: meta}
	return append(appendHeader(nil, f.header()), meta...)
}

// readHello reads the first frame of the far end.
func readHello(in *inBuffer, kind frameKind) (hello, error) {
	if err := in.ensure(headerSize); err != nil {
		return hello{}, err
	}
	h, err := decodeHeader(in.unread())
	if err != nil {
		return hello{}, err
	}
	if h.kind != kind || h.meta > 2*maxErrorText || h.data != 0 {
		return hello{}, fmt.Errorf("%w: %s instead of %s", errGarbled, h.kind, kind)
	}
	if err := in.ensure(h.size()); err != nil {
		return hello{}, err
	}
	meta := in.unread()[headerSize:h.size()]
	defer in.skip(h.size())
	if err := h.checkMeta(meta); err != nil {
		return hello{}, err
	}
	if h.flags&flagError != 0 {
		err, ok := decodeError(meta)
		if !ok {
			err = errGarbled
		}
		return hello{}, err
	}
	theirs, err := decodeHello(meta)
	if err != nil {
		err = fmt.Errorf("%w: %w", errGarbled, err)
	}
	return theirs, err
}

// do runs one call. size is the bytes that it and its reply may have.
func (c *Client) do(ctx context.Context, cl class, f *frame, size int, s sink) error {
	cost := int64(min(max(size, callCost), callBudget))
	if err := c.budgets[cl].Acquire(ctx, cost); err != nil {
		return fmt.Errorf("%s to %s: %w", f.kind, c.addr, err)
	}
	defer c.budgets[cl].Release(cost)
	n := &c.small
	if size >= bulkSize || cl == classControl {
		n = &c.bulk
	}
	for {
		l, err := n.acquire(ctx, cl != classControl)
		if err != nil {
			return err
		}
		if err := l.out.waitRoom(ctx); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%s to %s: %w", f.kind, c.addr, err)
			}
			return l.broken(err)
		}
		err = l.do(ctx, f, &call{sink: s, done: make(chan struct{}, 1)})
		if !errors.Is(err, errRetired) {
			return err
		}
	}
}

// close ends the client's connections. Calls in flight end with an error that
// wraps sheepdog.ErrUnreachable and sheepdog.ErrClosed.
func (c *Client) close() {
	c.cancel()
	c.small.close()
	c.bulk.close()
}

// rest closes connections that were not used for long.
func (c *Client) rest() {
	c.small.rest()
	c.bulk.rest()
}

// tick reports for how long the client was not used, in heartbeats.
func (c *Client) tick() int { return min(c.small.tick(), c.bulk.tick()) }
