package peer

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
)

// simPair is a client at host a of a node at host b.
func simPair(t *testing.T, n *sim.Net, h Handler, opts Options) (*Client, *testNode) {
	t.Helper()
	node := startNode(t, n.Host("b"), ":7000", h, Options{StallAfter: opts.StallAfter})
	return startPool(t, n.Host("a"), opts).Client(node.member), node
}

// collect is a done for Write that tells of every answer.
func collect(n int) (done func(int, error), answers chan error) {
	answers = make(chan error, n)
	return func(_ int, err error) { answers <- err }, answers
}

// Whatever has arrived while the server was busy is one batch.
func TestServerBatchesWhatHasArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var batches [][]uint64
		h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			var seqs []uint64
			for _, r := range reqs {
				seqs = append(seqs, r.Stamp.Seq)
			}
			batches = append(batches, seqs)
			<-gate
			for i := range reqs {
				done(i, nil)
			}
		}}
		c, _ := simPair(t, sim.NewNet(1, sim.NetOptions{}), h, Options{})
		done, answers := collect(100)
		send := func(seq uint64) {
			r := writeRequest(nil, 1)
			r.Stamp.Seq = seq
			c.Write(t.Context(), []*sheepdog.WriteRequest{r}, done)
		}
		send(0)
		time.Sleep(time.Second) // the server has it, and waits for the gate
		for seq := uint64(1); seq < 40; seq++ {
			send(seq)
		}
		time.Sleep(time.Second) // all are at the server
		close(gate)
		for range 40 {
			if err := <-answers; err != nil {
				t.Fatal(err)
			}
		}
		// What came alone is one, and so is every packet: there are few of them.
		if len(batches) > 12 {
			t.Fatalf("%d batches of 40 writes: %v", len(batches), batches)
		}
		for i, seq := range slices.Concat(batches...) {
			if seq != uint64(i) {
				t.Fatalf("order %v", batches)
			}
		}
	})
}

func TestHandlerMayAnswerLater(t *testing.T) {
	type held struct {
		req  *sheepdog.WriteRequest
		want []byte
		done func()
	}
	keep := make(chan held, 2000)
	h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
		for i, r := range reqs {
			if r.Stamp.Seq%3 == 0 {
				done(i, nil)
				continue
			}
			keep <- held{r, bytes.Clone(r.Data), func() { done(i, sheepdog.ErrNoSpace) }}
		}
	}}
	c := pair(t, h)
	const total = 600
	done, answers := collect(total)
	for seq := range uint64(total) {
		n := 1 + int(seq%40)
		r := writeRequest(blocks(n, byte(seq)), uint32(n))
		r.Stamp.Seq = seq
		c.Write(testContext(t), []*sheepdog.WriteRequest{r}, done)
	}
	for range total * 2 / 3 {
		k := <-keep
		if !bytes.Equal(k.req.Data, k.want) {
			t.Fatalf("data of write %d changed before it was answered", k.req.Stamp.Seq)
		}
		k.done()
	}
	good := 0
	for range total {
		if err := <-answers; err == nil {
			good++
		} else {
			wantError(t, err, sheepdog.ErrNoSpace)
		}
	}
	if good != total/3 {
		t.Errorf("%d good answers, want %d", good, total/3)
	}
}

func TestCancelledReadLeavesBuffersAlone(t *testing.T) {
	for _, n := range []int{1, 1024} {
		started, gate := make(chan struct{}), make(chan struct{})
		h := &fakeHandler{read: func(ctx context.Context, r *sheepdog.ReadRequest) error {
			for i := range r.States {
				r.States[i] = sheepdog.Data
			}
			if r.Layer == 1 {
				close(started)
				<-ctx.Done() // the server is told
				<-gate
			}
			return nil
		}}
		c := pair(t, h)
		ctx, cancel := context.WithCancel(testContext(t))
		req := &sheepdog.ReadRequest{Layer: 1, Count: uint32(n), Buf: blocks(n, 1), States: make([]sheepdog.BlockState, n)}
		result := make(chan error, 1)
		go func() { result <- c.Read(ctx, req) }()
		<-started
		cancel()
		wantError(t, <-result, context.Canceled)
		link := c.link(n)
		close(gate) // now the late reply comes
		other := &sheepdog.ReadRequest{Count: uint32(n), Buf: blocks(n, 1), States: make([]sheepdog.BlockState, n)}
		for range 3 {
			if err := c.Read(testContext(t), other); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(req.Buf, blocks(n, 1)) || req.States[0] != sheepdog.Absent {
			t.Error("a late reply was written to the buffers of a cancelled read")
		}
		if c.link(n) != link {
			t.Error("the cancelled read cost the connection")
		}
	}
}

// link is the connection for requests of n blocks.
func (c *Client) link(n int) *link {
	lane := &c.small
	if n*sheepdog.BlockSize >= bulkSize {
		lane = &c.bulk
	}
	lane.mu.Lock()
	defer lane.mu.Unlock()
	return lane.link
}

func TestCancelledWritesGiveDataBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			<-gate
			for i, r := range reqs {
				if r.Data != nil && !bytes.Equal(r.Data, blocks(64, byte(r.Stamp.Seq))) {
					t.Errorf("write %d arrived with other data", r.Stamp.Seq)
				}
				done(i, nil)
			}
		}}
		c, _ := simPair(t, sim.NewNet(1, sim.NetOptions{}), h, Options{})
		_, err := c.bulk.acquire(t.Context(), true)
		wantError(t, err, nil)
		ctx, cancel := context.WithCancel(context.Background())
		const total = 20 // of 256 KiB: more than the network takes
		data := make([][]byte, total)
		var mu sync.Mutex
		ended := 0
		for i := range total {
			data[i] = blocks(64, byte(i))
			r := writeRequest(data[i], 64)
			r.Stamp.Seq = uint64(i)
			c.Write(ctx, []*sheepdog.WriteRequest{r}, func(_ int, err error) {
				if !errors.Is(err, sheepdog.ErrUnreachable) || !errors.Is(err, context.Canceled) {
					t.Errorf("write %d: %v", i, err)
				}
				clear(data[i]) // it is ours again
				mu.Lock()
				ended++
				mu.Unlock()
			})
		}
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		mu.Lock()
		if ended == 0 || ended == total {
			t.Errorf("%d of %d writes ended: what is not being sent should end, what is should not", ended, total)
		}
		mu.Unlock()
		close(gate)
		time.Sleep(time.Second)
		synctest.Wait()
		if ended != total {
			t.Errorf("%d of %d writes ended", ended, total)
		}
		if err := writeAll(t, c, t.Context(), writeRequest(nil, 1))[0]; err != nil {
			t.Error(err)
		}
	})
}

func TestWriteWaitsWhenTooMuchIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			<-gate
			for i := range reqs {
				done(i, nil)
			}
		}}
		c, _ := simPair(t, sim.NewNet(1, sim.NetOptions{}), h, Options{StallAfter: time.Hour})
		if errs := c.Flush(t.Context(), &sheepdog.FlushRequest{}); errs == nil {
			t.Fatal("flushed")
		}
		_, err := c.bulk.acquire(t.Context(), true)
		wantError(t, err, nil)
		sent, total := 0, 4*maxQueued/(256<<10)
		done, answers := collect(total)
		go func() {
			for range total {
				c.Write(context.Background(), []*sheepdog.WriteRequest{writeRequest(blocks(64, 1), 64)}, done)
				sent++
			}
		}()
		time.Sleep(time.Minute) // heartbeats keep the connection
		synctest.Wait()
		if queued := sent * 256 << 10; queued < maxQueued || queued > maxQueued+(2<<20) {
			t.Errorf("%d bytes were taken, the bound is %d", queued, maxQueued)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err = writeAll(t, c, ctx, writeRequest(blocks(64, 1), 64))[0]
		wantError(t, err, context.DeadlineExceeded)
		close(gate)
		for range total {
			if err := <-answers; err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWritesDuringDialKeepOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []uint64
		h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			for i, r := range reqs {
				got = append(got, r.Stamp.Seq)
				done(i, nil)
			}
		}}
		c, _ := simPair(t, sim.NewNet(1, sim.NetOptions{Latency: 50 * time.Millisecond}), h, Options{})
		const total = maxWaiting + 50
		done, answers := collect(total)
		for seq := range uint64(total) {
			r := writeRequest(nil, 1)
			r.Stamp.Seq = seq
			c.Write(t.Context(), []*sheepdog.WriteRequest{r}, done)
		}
		bad := 0
		for range total {
			if err := <-answers; err != nil {
				wantError(t, err, sheepdog.ErrUnreachable)
				bad++
			}
		}
		if bad != 50 || len(got) != maxWaiting {
			t.Fatalf("%d refused, %d done: only %d may wait for a connection", bad, len(got), maxWaiting)
		}
		for i, seq := range got {
			if seq != uint64(i) {
				t.Fatalf("write %d came at position %d", seq, i)
			}
		}
	})
}

func TestSlowJobsDoNotBlockOthers(t *testing.T) {
	gate := make(chan struct{})
	slow := func(ctx context.Context) error {
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return nil
	}
	h := &fakeHandler{
		flush:   func(ctx context.Context, _ *sheepdog.FlushRequest) error { return slow(ctx) },
		forward: func(ctx context.Context, _ *sheepdog.ForwardRequest, _ []byte) error { return slow(ctx) },
		read:    func(context.Context, *sheepdog.ReadRequest) error { return nil },
	}
	c := pair(t, h)
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			if err := c.Flush(testContext(t), &sheepdog.FlushRequest{}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := c.Forward(testContext(t), &sheepdog.ForwardRequest{Op: sheepdog.ForwardFlush}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range 100 {
		req := &sheepdog.ReadRequest{Count: 1, Buf: make([]byte, 4096), States: make([]sheepdog.BlockState, 1)}
		if err := c.Read(testContext(t), req); err != nil {
			t.Fatal(err)
		}
		if err := writeAll(t, c, testContext(t), writeRequest(nil, 1))[0]; err != nil {
			t.Fatal(err)
		}
	}
	close(gate)
	wg.Wait()
}

func TestConcurrentMix(t *testing.T) {
	h := &fakeHandler{
		read: func(_ context.Context, r *sheepdog.ReadRequest) error {
			for i := range r.States {
				r.States[i] = sheepdog.Data
			}
			copy(r.Buf, blocks(int(r.Count), byte(r.Start)))
			return nil
		},
		write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			for i, r := range reqs {
				var err error
				if !bytes.Equal(r.Data, blocks(int(r.Count), byte(r.Stamp.Seq))) {
					err = sheepdog.ErrChecksum
				}
				done(i, err)
			}
		},
	}
	c := pair(t, h)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 60 {
				n := 1 + (i*7+w*13)%40
				r := writeRequest(blocks(n, byte(i)), uint32(n))
				r.Stamp.Seq = uint64(i)
				if err := errors.Join(writeAll(t, c, context.Background(), r)...); err != nil {
					t.Error(err)
				}
				req := &sheepdog.ReadRequest{Start: sheepdog.BlockNo(i), Count: uint32(n), Buf: make([]byte, n*4096), States: make([]sheepdog.BlockState, n)}
				if err := c.Read(context.Background(), req); err != nil || !bytes.Equal(req.Buf, blocks(n, byte(i))) {
					t.Errorf("read: %v, or other bytes", err)
				}
			}
		})
	}
	wg.Wait()
}
