package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/internal/rawio"

	"golang.org/x/sync/semaphore"
)

// maxDetached bounds, per connection, the bytes of buffers that hold writes
// which the handler did not answer at once; then nothing more is read.
const maxDetached = 64 << 20

// session is one connection of a server. Its goroutine reads, and hands out
// the writes; all else runs in jobs.
type session struct {
	srv    *Server
	conn   net.Conn
	out    *outQueue
	in     inBuffer
	live   *liveness
	from   hello
	agreed sheepdog.ClusterID
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // jobs and the writer

	batch    *writeBatch
	detached *semaphore.Weighted
	writes   sync.WaitGroup // batches that are not answered

	jobs jobs
}

func newSession(s *Server, conn net.Conn) *session {
	ss := &session{srv: s, conn: conn, live: newLiveness(&s.opts), detached: semaphore.NewWeighted(maxDetached)}
	ss.live.busy.Store(true)
	raw := rawio.New(conn)
	src := watched{conn, ss.live}
	if raw != nil {
		src.src = raw
	}
	ss.in = newInBuffer(src, &s.buffers)
	ss.out = newOutQueue(conn, raw)
	ss.jobs.init(ss)
	return ss
}

// greet reads the client's hello and answers it.
func (ss *session) greet() error {
	o := &ss.srv.opts
	if err := ss.conn.SetDeadline(time.Now().Add(o.HandshakeTimeout)); err != nil {
		return err
	}
	var err error
	if ss.from, err = readHello(&ss.in, kindHello); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	ours := hello{node: o.Node, incarnation: o.Incarnation, cluster: o.Cluster()}
	ss.agreed, err = agree(ours.cluster, ss.from.cluster)
	if err == nil && !ss.from.isFor(ours.node, ours.incarnation) {
		err = wrongNode(ss.from, ours.node, ours.incarnation)
	}
	if err != nil {
		f := frame{kind: kindHello | kindReply, flags: flagError, meta: appendError(nil, err)}
		_, _ = ss.conn.Write(append(appendHeader(nil, f.header()), f.meta...))
		return err
	}
	if _, err := ss.conn.Write(helloFrame(kindHello|kindReply, ours)); err != nil {
		return fmt.Errorf("answer hello: %w", err)
	}
	return ss.conn.SetDeadline(time.Time{})
}

// run serves until the connection ends and returns why it did, when nothing of
// it is left.
func (ss *session) run() error {
	ss.ctx, ss.cancel = context.WithCancelCause(ss.srv.ctx)
	ss.batch = ss.srv.newBatch(ss)
	var writer sync.WaitGroup
	writer.Go(ss.out.run)
	err := ss.read()
	ss.out.close(err)
	err = ss.out.reason()
	ss.cancel(fmt.Errorf("%w: connection of node %s ended: %w", sheepdog.ErrClosed, ss.from.node, err))
	ss.jobs.wait()
	ss.writes.Wait()
	ss.out.finish()
	close(ss.out.stop)
	writer.Wait()
	ss.in.close()
	return err
}

func (ss *session) read() error {
	need := headerSize
	for {
		err := ss.in.ensure(need)
		if err != nil {
			return err
		}
		need, err = ss.buffered()
		if flushErr := ss.runBatch(); err == nil {
			err = flushErr
		}
		if err != nil {
			return err
		}
	}
}

// buffered handles the complete frames in the buffer, collecting the writes,
// and returns how many bytes the next one needs.
func (ss *session) buffered() (need int, err error) {
	for {
		b := ss.in.unread()
		if len(b) < headerSize {
			return headerSize, nil
		}
		h, err := decodeHeader(b)
		if err != nil {
			return 0, err
		}
		if len(b) < h.size() {
			return h.size(), nil
		}
		meta := b[headerSize : headerSize+int(h.meta)]
		data := b[headerSize+len(meta) : h.size()]
		if err := h.checkMeta(meta); err != nil {
			return 0, err
		}
		if h.kind != kindWrite { // addWrite does it
			if err := h.checkData(data); err != nil {
				return 0, err
			}
		}
		if err := ss.frame(h, meta, data); err != nil {
			return 0, err
		}
		ss.in.skip(h.size())
	}
}

// frame dispatches one frame. An error ends the connection; a request that
// makes no sense only gets an error reply.
func (ss *session) frame(h header, meta, data []byte) error {
	switch h.kind {
	case kindPing:
		return nil
	case kindCancel:
		ss.jobs.cancel(h.id)
		return nil
	case kindControl:
	default:
		if err := ss.member(); err != nil {
			ss.fail(h, fmt.Errorf("%s: %w", h.kind, err))
			return nil
		}
	}
	if h.kind == kindWrite {
		return ss.addWrite(h, meta, data)
	}
	return ss.startJob(h, meta, data)
}

// member refuses the data requests of a node that is not of this node's cluster,
// or not any more: the cluster may have been founded anew under another id.
func (ss *session) member() error {
	switch ours := ss.srv.opts.Cluster(); {
	case ss.agreed.IsZero():
		return sheepdog.ErrNotFormatted
	case ss.agreed != ours:
		return fmt.Errorf("%w: this connection is of cluster %s, the node of %s now", sheepdog.ErrUnreachable, ss.agreed, ours)
	}
	return nil
}

// addWrite collects a write.
func (ss *session) addWrite(h header, meta, data []byte) error {
	if ss.batch.full() {
		if err := ss.runBatch(); err != nil {
			return err
		}
	}
	sums, err := ss.batch.verify(h, data)
	if err != nil {
		return err
	}
	if err := ss.batch.add(h.id, meta, data, sums); err != nil {
		ss.fail(h, err)
	}
	return nil
}

// fail answers a request with an error.
func (ss *session) fail(h header, err error) {
	_ = ss.out.put(&frame{kind: h.kind | kindReply, flags: flagError, id: h.id, meta: appendError(nil, err)})
}

// reply answers a request, in parts if meta is too long for one frame.
func (ss *session) reply(ctx context.Context, h header, f *frame) {
	f.kind, f.id = h.kind|kindReply, h.id
	for len(f.meta) > maxPart {
		part := &frame{kind: f.kind, id: f.id, flags: flagMore, meta: f.meta[:maxPart]}
		if ss.out.waitRoom(ctx) != nil {
			break
		}
		_ = ss.out.put(part)
		f.meta = f.meta[maxPart:]
	}
	if err := ss.out.waitRoom(ctx); err != nil { // nobody wants it any more
		if f.owner != nil {
			f.owner.release()
		}
		return
	}
	f.seal()
	_ = ss.out.put(f)
}
