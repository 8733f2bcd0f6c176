package peer

import (
	"context"
	"fmt"
	"sync"

	"sheepdog"
)

// Limits of the jobs of one connection. A client of ours keeps within them; one
// that exceeds what may wait is cut off.
const (
	maxWaitingJobs = 2048
	maxHeldBytes   = 4 * callBudget
)

// runningJobs is how many jobs of a class run at once on a connection.
func runningJobs(c class) int {
	limits := [classes]int{classRead: 64, classFlush: 64, classForward: 256, classControl: 64}
	return limits[c]
}

// job is a request that may take its time.
type job struct {
	id     uint64
	held   int // bytes of a buffer that it keeps
	ctx    context.Context
	cancel context.CancelFunc
	run    func(ctx context.Context)
}

// jobs runs requests in goroutines of which there are only so many per class;
// further ones wait in order.
type jobs struct {
	ss *session

	mu      sync.Mutex
	running [classes]int
	waiting [classes][]*job
	queued  int
	held    int
	byID    map[uint64]*job
}

func (j *jobs) init(ss *session) {
	j.ss, j.byID = ss, make(map[uint64]*job)
}

// start runs a job or lets it wait. An error means that the far end asks for
// more than it may.
func (j *jobs) start(c class, b *job) error {
	b.ctx, b.cancel = context.WithCancel(j.ss.ctx)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.byID[b.id] = b
	j.held += b.held
	if j.running[c] < runningJobs(c) {
		j.running[c]++
		j.ss.wg.Go(func() { j.work(c, b) })
		return nil
	}
	j.waiting[c] = append(j.waiting[c], b)
	j.queued++
	if j.queued > maxWaitingJobs || j.held > maxHeldBytes {
		return fmt.Errorf("%w: %d requests with %d bytes wait: more than a client may send", errGarbled, j.queued, j.held)
	}
	return nil
}

func (j *jobs) work(c class, b *job) {
	for b != nil {
		b.run(b.ctx)
		b.cancel()
		b = j.next(c, b)
	}
}

// next ends a job and takes one that waits.
func (j *jobs) next(c class, was *job) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.byID[was.id] == was {
		delete(j.byID, was.id)
	}
	j.held -= was.held
	if len(j.waiting[c]) == 0 {
		j.waiting[c] = nil
		j.running[c]--
		return nil
	}
	b := j.waiting[c][0]
	j.waiting[c][0] = nil
	j.waiting[c] = j.waiting[c][1:]
	j.queued--
	return b
}

// cancel ends the context of a job whose caller gave up.
func (j *jobs) cancel(id uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if b := j.byID[id]; b != nil {
		b.cancel()
	}
}

// wait ends when no job runs or waits; the session's context has ended.
func (j *jobs) wait() { j.ss.wg.Wait() }

// startJob decodes a request that is not a write and starts its job. The
// request is answered at once if it cannot be decoded.
func (ss *session) startJob(h header, meta, data []byte) error {
	var c class
	b := &job{id: h.id}
	var err error
	switch h.kind {
	case kindRead:
		c = classRead
		b.run, err = ss.readJob(h, meta)
	case kindList:
		c = classRead
		b.run, err = ss.listJob(h, meta)
	case kindFetch:
		c = classRead
		b.run, err = ss.fetchJob(h, meta)
	case kindFlush:
		c = classFlush
		b.run, err = ss.flushJob(h, meta)
	case kindSeal:
		c = classFlush
		b.run, err = ss.sealJob(h, meta)
	case kindForward:
		c = classForward
		b.held = len(data)
		b.run, err = ss.forwardJob(h, meta, data)
	case kindControl:
		c = classControl
		b.held = len(data)
		b.run, err = ss.controlJob(h, meta, data)
	default:
		err = invalid("unknown request: %s", h.kind)
	}
	if err != nil {
		ss.fail(h, err)
		return nil
	}
	return ss.jobs.start(c, b)
}

func (ss *session) readJob(h header, meta []byte) (func(context.Context), error) {
	req := &sheepdog.ReadRequest{}
	if err := decodeRead(meta, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		n := int(req.Count) * sheepdog.BlockSize
		buf := ss.srv.buffers.get(n)
		req.Buf, req.States = buf.b[:n:n], make([]sheepdog.BlockState, req.Count)
		if err := ss.srv.handler.Read(ctx, req); err != nil {
			buf.release()
			ss.fail(h, err)
			return
		}
		f := &frame{meta: appendStates(nil, req.States), owner: buf}
		f.data, _ = dataRanges(nil, req.States, req.Buf)
		ss.reply(ctx, h, f)
	}, nil
}

func (ss *session) listJob(h header, meta []byte) (func(context.Context), error) {
	req, err := decodeList(meta)
	return func(ctx context.Context) {
		r, err := ss.srv.handler.List(ctx, req)
		if err == nil && len(r.Entries) > req.Limit {
			err = invalid("list: handler returned %d entries: the limit is %d", len(r.Entries), req.Limit)
		}
		if err != nil {
			ss.fail(h, err)
			return
		}
		ss.reply(ctx, h, &frame{meta: appendListReply(nil, r)})
	}, err
}

func (ss *session) fetchJob(h header, meta []byte) (func(context.Context), error) {
	req, err := decodeFetch(meta)
	return func(ctx context.Context) {
		f := &frame{}
		if req.WithData {
			f.owner = ss.srv.buffers.get(int(req.Count) * sheepdog.BlockSize)
			req.Buf = f.owner.b
		}
		r, err := ss.srv.handler.Fetch(ctx, req)
		if err == nil {
			err = checkFetchReply(req, r)
		}
		if err != nil {
			if f.owner != nil {
				f.owner.release()
			}
			ss.fail(h, err)
			return
		}
		if r.Raw {
			f.flags = flagRaw
		}
		f.meta = appendFetchReply(nil, r)
		if req.WithData {
			f.data, _ = dataRanges(nil, recordStates(r.Records), r.Data)
		}
		ss.reply(ctx, h, f)
	}, err
}

func (ss *session) flushJob(h header, meta []byte) (func(context.Context), error) {
	req, err := decodeFlush(meta)
	return func(ctx context.Context) {
		if err := ss.srv.handler.Flush(ctx, req); err != nil {
			ss.fail(h, err)
			return
		}
		ss.reply(ctx, h, &frame{})
	}, err
}

func (ss *session) sealJob(h header, meta []byte) (func(context.Context), error) {
	req, err := decodeSeal(meta)
	return func(ctx context.Context) {
		r, err := ss.srv.handler.Seal(ctx, req)
		if err != nil {
			ss.fail(h, err)
			return
		}
		ss.reply(ctx, h, &frame{meta: appendSealReply(nil, r)})
	}, err
}

// forwardJob keeps the data of a write: in the session's chunk if they are
// long, else in a smaller one.
func (ss *session) forwardJob(h header, meta, data []byte) (func(context.Context), error) {
	hold := ss.in.chunk
	if len(data) >= bulkSize {
		hold.hold()
	} else {
		hold = ss.srv.buffers.get(len(data))
		data = hold.b[:copy(hold.b, data)]
	}
	req, err := decodeForward(meta, data)
	if err != nil {
		hold.release()
		return nil, err
	}
	return func(ctx context.Context) {
		defer hold.release()
		ss.forward(ctx, h, req)
	}, nil
}

func (ss *session) forward(ctx context.Context, h header, req *sheepdog.ForwardRequest) {
	f := &frame{}
	var buf []byte
	if req.Op == sheepdog.ForwardRead && req.Length > 0 {
		f.owner = ss.srv.buffers.get(int(req.Length))
		buf = f.owner.b[:req.Length:req.Length]
		f.data = [][]byte{buf}
	}
	if err := ss.srv.handler.Forward(ctx, req, buf); err != nil {
		if f.owner != nil {
			f.owner.release()
		}
		ss.fail(h, err)
		return
	}
	ss.reply(ctx, h, f)
}

func (ss *session) controlJob(h header, meta, data []byte) (func(context.Context), error) {
	method, body, err := decodeControl(meta, append([]byte(nil), data...))
	return func(ctx context.Context) {
		out, err := ss.srv.handler.Control(ctx, ss.from.node, method, body)
		if err == nil && len(out) > maxBody {
			err = invalid("control %s: reply of %d bytes: the limit is %d", method, len(out), maxBody)
		}
		if err != nil {
			ss.fail(h, err)
			return
		}
		f := &frame{}
		if len(out) > 0 {
			f.data = [][]byte{out}
		}
		ss.reply(ctx, h, f)
	}, err
}
