package peer

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"sheepdog"
	"sheepdog/objectstore"
	"sheepdog/objectstore/storetest"
)

// The conformance suite of engines, run on an engine at the far end of a
// connection: what is asked of blocks crosses the wire both ways; housekeeping,
// which never does, goes to the engine directly.
func TestRemoteEngineConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Reopener {
		m := objectstore.NewMemory()
		h := &engineHandler{engine: m, chains: make(map[sheepdog.LayerID][]sheepdog.LayerID)}
		return &remoteEngine{Memory: m, client: pair(t, h), handler: h}
	})
}

// engineHandler serves an engine as a replica without rules.
type engineHandler struct {
	fakeHandler
	engine sheepdog.Engine

	mu     sync.Mutex
	chains map[sheepdog.LayerID][]sheepdog.LayerID // by the id that stands for a chain on the wire
}

func (h *engineHandler) chain(id sheepdog.LayerID) []sheepdog.LayerID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.chains[id]
}

func (h *engineHandler) name(chain []sheepdog.LayerID) sheepdog.LayerID {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := sheepdog.LayerID(len(h.chains) + 1)
	h.chains[id] = chain
	return id
}

func (h *engineHandler) Write(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	ops := make([]sheepdog.Op, len(reqs))
	for i, r := range reqs {
		ops[i] = sheepdog.Op{Object: r.Object, Layer: r.Layer, Start: r.Start, Count: r.Count, Data: r.Data, Stamp: r.Stamp, Force: r.Repair}
	}
	errs := make([]error, len(ops))
	h.engine.Write(ops, errs)
	for i, err := range errs {
		done(i, err)
	}
}

func (h *engineHandler) Read(_ context.Context, r *sheepdog.ReadRequest) error {
	return h.engine.Read(r.Object, h.chain(r.Layer), r.Start, r.Count, r.Buf, r.States)
}

func (h *engineHandler) Flush(context.Context, *sheepdog.FlushRequest) error { return h.engine.Flush() }

func (h *engineHandler) Fetch(_ context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	out := &sheepdog.FetchReply{Records: make([]sheepdog.Record, r.Count)}
	return out, h.engine.Records(r.Object, h.chain(r.Layer), r.Start, r.Count, out.Records)
}

// remoteEngine is the near end. Its housekeeping is that of the far engine.
type remoteEngine struct {
	*objectstore.Memory
	client  *Client
	handler *engineHandler
}

func (e *remoteEngine) Engine() sheepdog.Engine { return e }

// OwnSums implements storetest.OwnSummer: checksums do not travel with writes.
func (e *remoteEngine) OwnSums() {}

func (e *remoteEngine) Reopen(*testing.T) { e.Memory.Reopen() }

func (e *remoteEngine) Write(ops []sheepdog.Op, errs []error) {
	var wg sync.WaitGroup
	reqs := make([]*sheepdog.WriteRequest, len(ops))
	for i, op := range ops {
		reqs[i] = &sheepdog.WriteRequest{Policy: sheepdog.Policy{Copies: 1}, Object: op.Object, Layer: op.Layer, Start: op.Start, Count: op.Count, Data: op.Data, Stamp: op.Stamp, Repair: op.Force}
	}
	wg.Add(len(reqs))
	e.client.Write(context.Background(), reqs, func(i int, err error) {
		errs[i] = err
		wg.Done()
	})
	wg.Wait()
}

func (e *remoteEngine) Read(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	if len(buf) != int(count)*sheepdog.BlockSize || len(states) != int(count) {
		return fmt.Errorf("buffers do not fit %d blocks: %w", count, sheepdog.ErrInvalid)
	}
	return e.client.Read(context.Background(), &sheepdog.ReadRequest{Policy: sheepdog.Policy{Copies: 1}, Object: obj, Layer: e.handler.name(chain), Start: start, Count: count, Buf: buf, States: states})
}

func (e *remoteEngine) Records(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, recs []sheepdog.Record) error {
	if len(recs) != int(count) {
		return fmt.Errorf("%d records for %d blocks: %w", len(recs), count, sheepdog.ErrInvalid)
	}
	r, err := e.client.Fetch(context.Background(), &sheepdog.FetchRequest{Policy: sheepdog.Policy{Copies: 1}, Object: obj, Layer: e.handler.name(chain), Start: start, Count: count})
	if err == nil {
		copy(recs, r.Records)
	}
	return err
}

func (e *remoteEngine) Flush() error {
	return e.client.Flush(context.Background(), &sheepdog.FlushRequest{Family: 1})
}
