package peer

import (
	"bytes"
	"context"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
)

var (
	testFence  = sheepdog.Fence{Revision: 7, Token: 9}
	testPolicy = sheepdog.Policy{Copies: 3, Parity: 1}
	testObject = sheepdog.ObjectID{Family: 0x1122334455667788, Index: 0x99aabbcc}
)

// pairFunc makes a client of a node with the given handler.
type pairFunc func(testing.TB, Handler) *Client

// simulatedPair runs on the simulated network, in real time.
func simulatedPair(t testing.TB, h Handler) *Client {
	t.Helper()
	n := sim.NewNet(1, sim.NetOptions{Latency: time.Microsecond})
	node := startNode(t, n.Host("b"), ":7000", h, Options{})
	return startPool(t, n.Host("a"), Options{}).Client(node.member)
}

// TestMessages sends every message over both networks.
func TestMessages(t *testing.T) {
	for network, pair := range map[string]pairFunc{"loopback": pair, "simulated": simulatedPair} {
		for name, test := range map[string]func(*testing.T, pairFunc){
			"WriteArrives":          testWriteArrives,
			"WriteRefusesMalformed": testWriteRefusesMalformed,
			"ReadFillsBuffers":      testReadFillsBuffers,
			"WriteOfOtherData":      testWriteOfOtherData,
			"ErrorsCross":           testErrorsCross,
			"FlushAndSeal":          testFlushAndSeal,
			"ListPages":             testListPages,
			"Fetch":                 testFetch,
			"RawFetch":              testRawFetch,
			"RawUnasked":            testRawUnasked,
			"Forward":               testForward,
			"Control":               testControl,
		} {
			t.Run(network+"/"+name, func(t *testing.T) { test(t, pair) })
		}
	}
}

func writeRequest(data []byte, count uint32) *sheepdog.WriteRequest {
	return &sheepdog.WriteRequest{
		Fence: testFence, Policy: testPolicy, Object: testObject, Layer: 5, Start: 6, Count: count, Data: data,
		Stamp: sheepdog.Stamp{Token: 9, Seq: 10}, Origin: sheepdog.Origin{Gateway: 11, Request: 12},
		OriginDone: 13, Flushed: 14, Repair: true,
	}
}

func testWriteArrives(t *testing.T, pair pairFunc) {
	var mu sync.Mutex
	var got []sheepdog.WriteRequest
	h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
		mu.Lock()
		defer mu.Unlock()
		for i, r := range reqs {
			c := *r
			c.Data, c.Sums = bytes.Clone(r.Data), slices.Clone(r.Sums)
			got = append(got, c)
			done(i, map[sheepdog.Index]error{1: sheepdog.ErrFenced}[r.Object.Index])
		}
	}}
	c := pair(t, h)
	for _, n := range []int{0, 1, 15, 16, 17, 256, 1024, maxBlocks} {
		want := []*sheepdog.WriteRequest{writeRequest(nil, 40), writeRequest(nil, 3)}
		if n > 0 {
			want[0] = writeRequest(blocks(n, 3), uint32(n))
		}
		if n == 16 {
			want[0].Sums = sheepdog.AppendSums(nil, want[0].Data)
		}
		want[1].Object.Index = 1
		got = got[:0]
		errs := writeAll(t, c, testContext(t), want...)
		if errs[0] != nil {
			t.Fatalf("%d blocks: %v", n, errs[0])
		}
		wantError(t, errs[1], sheepdog.ErrFenced)
		if n > 0 && n != 16 {
			want[0].Sums = sheepdog.AppendSums(nil, want[0].Data) // they arrive whether the caller had them or not
		}
		if len(got) != 2 || !reflect.DeepEqual(got[0], *want[0]) || !reflect.DeepEqual(got[1], *want[1]) {
			t.Fatalf("%d blocks: something else arrived", n)
		}
	}
}

// Data that are not those of the checksums are not taken: the frame is broken, and
// with it the connection.
func testWriteOfOtherData(t *testing.T, pair pairFunc) {
	h := &fakeHandler{write: func(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
		for i, r := range reqs {
			if r.Count == 3 {
				t.Error("data that do not match their checksums were taken")
			}
			done(i, nil)
		}
	}}
	c := pair(t, h)
	r := writeRequest(blocks(3, 3), 3)
	r.Sums = sheepdog.AppendSums(nil, r.Data)
	r.Data[2*sheepdog.BlockSize+7] ^= 4
	wantError(t, writeAll(t, c, testContext(t), r)[0], sheepdog.ErrUnreachable)
}

func testWriteRefusesMalformed(t *testing.T, pair pairFunc) {
	c := pair(t, &fakeHandler{})
	for name, r := range map[string]*sheepdog.WriteRequest{
		"no blocks":      writeRequest(nil, 0),
		"short data":     writeRequest(make([]byte, 4096), 2),
		"empty data":     writeRequest([]byte{}, 1),
		"beyond the end": {Start: maxSpan, Count: 1},
		"too much":       writeRequest(make([]byte, (maxBlocks+1)*sheepdog.BlockSize), maxBlocks+1),
	} {
		errs := writeAll(t, c, testContext(t), writeRequest(nil, 1), r, writeRequest(nil, 1))
		if errs[0] != nil || errs[2] != nil {
			t.Errorf("%s: the requests beside it failed: %v", name, errs)
		}
		if errs[1] == nil {
			t.Errorf("%s: accepted", name)
		}
		wantError(t, errs[1], sheepdog.ErrInvalid)
	}
}

func testReadFillsBuffers(t *testing.T, pair pairFunc) {
	rng := rand.New(rand.NewPCG(1, 2))
	var want *sheepdog.ReadRequest
	h := &fakeHandler{read: func(_ context.Context, r *sheepdog.ReadRequest) error {
		if r.Fence != testFence || r.Object != testObject || r.Layer != 5 || r.Policy != testPolicy || r.Start != 4 {
			t.Errorf("another request arrived: %+v", r)
		}
		copy(r.Buf, want.Buf)
		copy(r.States, want.States)
		return nil
	}}
	c := pair(t, h)
	for _, n := range []int{1, 8, 16, 100, 1024, maxBlocks} {
		want = &sheepdog.ReadRequest{Buf: blocks(n, 1), States: make([]sheepdog.BlockState, n)}
		state := sheepdog.Data
		for i := range want.States {
			if rng.IntN(4) == 0 {
				state = sheepdog.BlockState(rng.IntN(3))
			}
			want.States[i] = state
		}
		clearGaps(want.States, want.Buf)
		req := &sheepdog.ReadRequest{
			Fence: testFence, Policy: testPolicy, Object: testObject, Layer: 5, Start: 4, Count: uint32(n),
			Buf: bytes.Repeat([]byte{0xee}, n*sheepdog.BlockSize), States: make([]sheepdog.BlockState, n),
		}
		if err := c.Read(testContext(t), req); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(req.Buf, want.Buf) || !reflect.DeepEqual(req.States, want.States) {
			t.Fatalf("%d blocks: read something else", n)
		}
	}
	wantError(t, c.Read(testContext(t), &sheepdog.ReadRequest{Count: 1}), sheepdog.ErrInvalid)
}

func testErrorsCross(t *testing.T, pair pairFunc) {
	var answer error
	h := &fakeHandler{
		read:  func(context.Context, *sheepdog.ReadRequest) error { return answer },
		flush: func(context.Context, *sheepdog.FlushRequest) error { return answer },
	}
	c := pair(t, h)
	for _, answer = range []error{sheepdog.ErrStale, sheepdog.ErrBehind, sheepdog.ErrNotActing, &sheepdog.BadBlocksError{}} {
		req := &sheepdog.ReadRequest{Count: 1, Buf: make([]byte, 4096), States: make([]sheepdog.BlockState, 1)}
		want := answer
		if _, bad := answer.(*sheepdog.BadBlocksError); bad {
			want = sheepdog.ErrChecksum
		}
		wantError(t, c.Read(testContext(t), req), want)
		wantError(t, c.Flush(testContext(t), &sheepdog.FlushRequest{}), want)
	}
}

func testFlushAndSeal(t *testing.T, pair pairFunc) {
	reply := &sheepdog.SealReply{Origins: []sheepdog.Origin{{Gateway: 1, Request: 2}}}
	for i := range 500_000 { // more than a frame holds
		reply.Dirty = append(reply.Dirty, sheepdog.DirtyBlocks{
			Object: testObject, Layer: 5, Start: sheepdog.BlockNo(i), Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: uint64(i)},
		})
	}
	h := &fakeHandler{
		flush: func(_ context.Context, r *sheepdog.FlushRequest) error {
			if *r != (sheepdog.FlushRequest{Fence: testFence, Family: 3, Flushed: 4}) {
				t.Errorf("another flush arrived: %+v", r)
			}
			return nil
		},
		seal: func(_ context.Context, r *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
			if *r != (sheepdog.SealRequest{Fence: testFence, Family: 3}) {
				t.Errorf("another seal arrived: %+v", r)
			}
			return reply, nil
		},
	}
	c := pair(t, h)
	if err := c.Flush(testContext(t), &sheepdog.FlushRequest{Fence: testFence, Family: 3, Flushed: 4}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Seal(testContext(t), &sheepdog.SealRequest{Fence: testFence, Family: 3})
	if err != nil || !reflect.DeepEqual(got, reply) {
		t.Fatalf("seal: %v, or another reply", err)
	}
}

func testListPages(t *testing.T, pair pairFunc) {
	var all []sheepdog.ListEntry
	for i := range 2500 {
		all = append(all, sheepdog.ListEntry{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}, Layer: 2, Digest: uint64(i) * 7})
	}
	parts := []sheepdog.Partition{0, 5, 65535}
	h := &fakeHandler{list: func(_ context.Context, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
		if !reflect.DeepEqual(r.Partitions, parts) || r.Fence != testFence || r.Policy != testPolicy {
			t.Errorf("another list arrived: %+v", r)
		}
		from := 0
		if r.After.Layer != 0 {
			from = int(r.After.Object.Index) + 1
		}
		to := min(from+r.Limit, len(all))
		return &sheepdog.ListReply{Entries: all[from:to], More: to < len(all)}, nil
	}}
	c := pair(t, h)
	req := &sheepdog.ListRequest{Fence: testFence, Policy: testPolicy, Partitions: parts, Limit: 1000}
	var got []sheepdog.ListEntry
	for pages := 1; ; pages++ {
		r, err := c.List(testContext(t), req)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Entries...)
		if !r.More {
			if pages != 3 {
				t.Errorf("%d pages, want 3", pages)
			}
			break
		}
		req.After = r.Entries[len(r.Entries)-1]
	}
	if !reflect.DeepEqual(got, all) {
		t.Fatal("listed something else")
	}
	for _, bad := range []*sheepdog.ListRequest{{}, {Limit: 65537}, {Limit: 1, Partitions: []sheepdog.Partition{2, 1}}} {
		_, err := c.List(testContext(t), bad)
		wantError(t, err, sheepdog.ErrInvalid)
	}
}

func fetchReply(n int, withData bool) *sheepdog.FetchReply {
	r := &sheepdog.FetchReply{Records: make([]sheepdog.Record, n), Bad: []sheepdog.BlockNo{1, 3}}
	for i := range r.Records {
		r.Records[i].State = sheepdog.BlockState(i / 3 % 3)
		r.Records[i].Stamp = sheepdog.Stamp{Token: 4, Seq: uint64(i / 5)}
		if r.Records[i].State == sheepdog.Data {
			r.Records[i].CRC = uint32(i)
		}
	}
	if withData {
		r.Data = blocks(n, 9)
		clearGaps(recordStates(r.Records), r.Data)
	}
	return r
}

func testFetch(t *testing.T, pair pairFunc) {
	h := &fakeHandler{fetch: func(_ context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
		if r.Fence != testFence || r.Object != testObject || r.Layer != 5 || r.Start != 2 || !r.Verify {
			t.Errorf("another fetch arrived: %+v", r)
		}
		reply := fetchReply(int(r.Count), r.WithData)
		if r.WithData {
			room := r.Room() // has been used before
			copy(room, reply.Data)
			reply.Data = room
		}
		return reply, nil
	}}
	c := pair(t, h)
	for _, n := range []int{4, 100, 1024, 4} {
		for _, withData := range []bool{false, true} {
			for _, room := range []int{0, n - 1, n + 1} {
				req := &sheepdog.FetchRequest{Fence: testFence, Policy: testPolicy, Object: testObject, Layer: 5, Start: 2, Count: uint32(n), WithData: withData, Verify: true,
					Buf: bytes.Repeat([]byte{0xee}, room*sheepdog.BlockSize)}
				got, err := c.Fetch(testContext(t), req)
				if err != nil || !reflect.DeepEqual(got, fetchReply(n, withData)) {
					t.Fatalf("%d blocks, data %v, room for %d: %v, or another reply", n, withData, room, err)
				}
				if withData && room > n && &got.Data[0] != &req.Buf[0] {
					t.Errorf("the reply of %d blocks is not in the buffer of the request", n)
				}
			}
		}
	}
}

func testForward(t *testing.T, pair pairFunc) {
	for _, n := range []int{1, 4096, 70_000, 1 << 20, sheepdog.MaxTransfer} {
		payload := blocks(n/4096+1, 1)[:n]
		h := &fakeHandler{forward: func(_ context.Context, r *sheepdog.ForwardRequest, buf []byte) error {
			if r.Family != 1 || r.Token != 2 || r.Offset != 3 || !r.FUA || r.Origin != (sheepdog.Origin{Gateway: 4, Request: 5}) || r.OriginDone != 6 {
				t.Errorf("another forward arrived: %+v", r)
			}
			switch r.Op {
			case sheepdog.ForwardRead:
				copy(buf, payload)
			case sheepdog.ForwardWrite:
				if !bytes.Equal(r.Data, payload) {
					t.Error("other data arrived")
				}
			case sheepdog.ForwardFlush:
				return sheepdog.ErrNotCoordinator
			}
			return nil
		}}
		c := pair(t, h)
		base := sheepdog.ForwardRequest{Family: 1, Token: 2, Offset: 3, FUA: true, Origin: sheepdog.Origin{Gateway: 4, Request: 5}, OriginDone: 6}
		read, write, zero, flush := base, base, base, base
		read.Op, read.Length = sheepdog.ForwardRead, uint32(n)
		write.Op, write.Length, write.Data = sheepdog.ForwardWrite, uint32(n), payload
		zero.Op, zero.Length = sheepdog.ForwardZero, 1<<30
		flush.Op = sheepdog.ForwardFlush
		buf := make([]byte, n)
		for _, err := range []error{c.Forward(testContext(t), &read, buf), c.Forward(testContext(t), &write, nil), c.Forward(testContext(t), &zero, nil)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(buf, payload) {
			t.Fatal("read something else")
		}
		wantError(t, c.Forward(testContext(t), &flush, nil), sheepdog.ErrNotCoordinator)
		wantError(t, c.Forward(testContext(t), &read, nil), sheepdog.ErrInvalid)
	}
}

func testControl(t *testing.T, pair pairFunc) {
	h := &fakeHandler{control: func(_ context.Context, from sheepdog.NodeID, method string, body []byte) ([]byte, error) {
		if from != 1 {
			t.Errorf("called by node %s", from)
		}
		if method == "fail" {
			return nil, sheepdog.ErrConflict
		}
		return append([]byte(method+":"), body...), nil
	}}
	c := pair(t, h)
	for _, body := range [][]byte{nil, []byte("x"), blocks(500, 2)} {
		got, err := c.Call(testContext(t), "echo", body)
		if err != nil || !bytes.Equal(got, append([]byte("echo:"), body...)) {
			t.Fatalf("%d bytes: %v, or another reply", len(body), err)
		}
	}
	_, err := c.Call(testContext(t), "fail", nil)
	wantError(t, err, sheepdog.ErrConflict)
	_, err = c.Call(testContext(t), "", nil)
	wantError(t, err, sheepdog.ErrInvalid)
	_, err = c.pool.Call(testContext(t), c.addr, "echo", make([]byte, maxBody+1))
	wantError(t, err, sheepdog.ErrInvalid)
}
