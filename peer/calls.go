package peer

import (
	"context"

	"sheepdog"
)

// Write sends requests in order and returns; done is called by the goroutine
// that reads the replies and must not block. It waits only while too much is
// queued for the node. A context that ends later ends the requests that have no
// answer with an error that wraps sheepdog.ErrUnreachable: their outcome is
// unknown.
func (c *Client) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	n := &c.small
	malformed := false
	for _, r := range reqs {
		malformed = malformed || checkWrite(r) != nil
		if len(r.Data) >= bulkSize {
			n = &c.bulk // all of them, for the order
		}
	}
	if malformed {
		reqs, done = refuseMalformed(reqs, done)
	}
	if len(reqs) > 0 {
		n.write(ctx, reqs, done)
	}
}

// refuseMalformed answers the requests that cannot be sent and returns the
// others, with a done that knows their positions.
func refuseMalformed(reqs []*sheepdog.WriteRequest, done func(i int, err error)) ([]*sheepdog.WriteRequest, func(i int, err error)) {
	var good []*sheepdog.WriteRequest
	var at []int
	for i, r := range reqs {
		if err := checkWrite(r); err != nil {
			done(i, err)
			continue
		}
		good, at = append(good, r), append(at, i)
	}
	return good, func(i int, err error) { done(at[i], err) }
}

// Read reads blocks. The buffers of req are not used after it returns; if ctx
// ends while a long reply is being received into them, that is when the rest has
// come or the node was given up.
func (c *Client) Read(ctx context.Context, req *sheepdog.ReadRequest) error {
	if err := checkRead(req); err != nil {
		return err
	}
	var meta [64]byte
	f := &frame{kind: kindRead, meta: appendRead(meta[:0], req)}
	return c.do(ctx, classRead, f, len(req.Buf), (*readSink)(req))
}

type readSink sheepdog.ReadRequest

func (s *readSink) ranges(meta []byte, _ int, dst [][]byte) ([][]byte, error) {
	if err := decodeStates(meta, s.States); err != nil {
		return nil, err
	}
	clearGaps(s.States, s.Buf)
	dst, _ = dataRanges(dst, s.States, s.Buf)
	return dst, nil
}

// noReply is the sink of calls whose success says everything.
type noReply struct{}

func (noReply) ranges(meta []byte, _ int, dst [][]byte) ([][]byte, error) {
	if len(meta) > 0 {
		return nil, errShort
	}
	return dst, nil
}

// Flush makes what the node accepted of a family durable.
func (c *Client) Flush(ctx context.Context, req *sheepdog.FlushRequest) error {
	return c.do(ctx, classFlush, &frame{kind: kindFlush, meta: appendFlush(nil, req)}, 0, noReply{})
}

// StartFlush begins a Flush and returns true if that waits for nothing; done gets
// its outcome, from the goroutine that reads the replies, which it must not hold up.
// If it returns false nothing has happened: then Flush is the way. A context that
// ends later ends the flush with an error that wraps sheepdog.ErrUnreachable.
func (c *Client) StartFlush(ctx context.Context, req *sheepdog.FlushRequest, done func(error)) bool {
	l := c.small.established()
	if l == nil || !l.out.hasRoom() || !c.budgets[classFlush].TryAcquire(callCost) {
		return false
	}
	started := l.start(ctx, &frame{kind: kindFlush, meta: appendFlush(nil, req)}, func(err error) {
		c.budgets[classFlush].Release(callCost)
		done(err)
	})
	if !started {
		c.budgets[classFlush].Release(callCost)
	}
	return started
}

// Seal promises a token and asks what is dirty.
func (c *Client) Seal(ctx context.Context, req *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	s := &sealSink{}
	err := c.do(ctx, classFlush, &frame{kind: kindSeal, meta: appendSeal(nil, req)}, bulkSize, s)
	return resultOf(s.reply, err)
}

type sealSink struct{ reply *sheepdog.SealReply }

func (s *sealSink) ranges(meta []byte, _ int, dst [][]byte) (_ [][]byte, err error) {
	s.reply, err = decodeSealReply(meta)
	return dst, err
}

// List asks for one page of objects.
func (c *Client) List(ctx context.Context, req *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	if err := checkList(req); err != nil {
		return nil, err
	}
	s := &listSink{limit: req.Limit}
	err := c.do(ctx, classRead, &frame{kind: kindList, meta: appendList(nil, req)}, max(bulkSize, req.Limit*entrySize), s)
	return resultOf(s.reply, err)
}

type listSink struct {
	limit int
	reply *sheepdog.ListReply
}

func (s *listSink) ranges(meta []byte, _ int, dst [][]byte) (_ [][]byte, err error) {
	s.reply, err = decodeListReply(meta)
	if err == nil && len(s.reply.Entries) > s.limit {
		err = invalid("list reply: %d entries: %d were asked for", len(s.reply.Entries), s.limit)
	}
	return dst, err
}

// Fetch asks for records, and for data if so requested.
func (c *Client) Fetch(ctx context.Context, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	if err := fetchSpan(req).check(fetchLimit(req.WithData)); err != nil {
		return nil, err
	}
	s := &fetchSink{req: req}
	size := bulkSize
	if req.WithData {
		size = max(size, int(req.Count)*sheepdog.BlockSize)
	}
	err := c.do(ctx, classRead, &frame{kind: kindFetch, meta: appendFetch(nil, req)}, size, s)
	return resultOf(s.reply, err)
}

type fetchSink struct {
	req   *sheepdog.FetchRequest
	isRaw bool
	reply *sheepdog.FetchReply
}

func (s *fetchSink) raw() bool {
	s.isRaw = s.req.WithData && s.req.MayBeRaw
	return s.isRaw
}

func (s *fetchSink) ranges(meta []byte, _ int, dst [][]byte) (_ [][]byte, err error) {
	s.reply, err = decodeFetchReply(meta, s.req.Count)
	if err != nil || !s.req.WithData {
		return dst, err
	}
	s.reply.Data, s.reply.Raw = s.req.Room(), s.isRaw
	states := recordStates(s.reply.Records)
	clearGaps(states, s.reply.Data)
	dst, _ = dataRanges(dst, states, s.reply.Data)
	return dst, nil
}

// Forward runs guest I/O at the coordinator. The data of req and buf are not
// used after it returns.
func (c *Client) Forward(ctx context.Context, req *sheepdog.ForwardRequest, buf []byte) error {
	if err := checkForward(req, len(buf)); err != nil {
		return err
	}
	f := &frame{kind: kindForward, meta: appendForward(nil, req)}
	if len(req.Data) > 0 {
		f.data = [][]byte{req.Data}
	}
	return c.do(ctx, classForward, f, len(req.Data)+len(buf), forwardSink(buf))
}

type forwardSink []byte

func (s forwardSink) ranges(meta []byte, size int, dst [][]byte) ([][]byte, error) {
	if len(meta) > 0 || size != len(s) {
		return nil, errShort
	}
	if size == 0 {
		return dst, nil
	}
	return append(dst, s), nil
}

// Call runs a control method at the node. It works without a cluster, too.
func (c *Client) Call(ctx context.Context, method string, body []byte) ([]byte, error) {
	if err := checkControl(method, len(body)); err != nil {
		return nil, err
	}
	f := &frame{kind: kindControl, meta: []byte(method)}
	if len(body) > 0 {
		f.data = [][]byte{body}
	}
	s := &bodySink{}
	err := c.do(ctx, classControl, f, len(body), s)
	return s.body, err
}

type bodySink struct{ body []byte }

func (s *bodySink) ranges(meta []byte, size int, dst [][]byte) ([][]byte, error) {
	if len(meta) > 0 || size > maxBody {
		return nil, errShort
	}
	s.body = make([]byte, size)
	return append(dst, s.body), nil
}

// resultOf hides a reply that came with an error.
func resultOf[T any](reply *T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return reply, nil
}
