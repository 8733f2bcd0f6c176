package peer

import (
	"bytes"
	"context"
	"reflect"
	"testing"

	"sheepdog"
)

// rawReply answers a fetch with bytes that match no checksum, if it takes such.
func rawReply(_ context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	reply := fetchReply(int(r.Count), r.WithData)
	reply.Bad, reply.Raw = nil, r.MayBeRaw
	return reply, nil
}

// testRawFetch: raw data arrive as they left, and nobody on the way minds what they
// are; their end is told that they are raw.
func testRawFetch(t *testing.T, pair pairFunc) {
	c := pair(t, &fakeHandler{fetch: rawReply})
	for _, n := range []int{4, 100, 1024, 4} { // in a frame that is copied, and past the buffers
		for _, mayBeRaw := range []bool{true, false} {
			req := &sheepdog.FetchRequest{Fence: testFence, Policy: testPolicy, Object: testObject, Layer: 5, Start: 2, Count: uint32(n), WithData: true, MayBeRaw: mayBeRaw}
			want, _ := rawReply(t.Context(), req)
			got, err := c.Fetch(testContext(t), req)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%d blocks, raw %v: %v, or another reply", n, mayBeRaw, err)
			}
		}
	}
}

// A handler that answers with what was not asked for is not believed.
func testRawUnasked(t *testing.T, pair pairFunc) {
	c := pair(t, &fakeHandler{fetch: func(ctx context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
		reply, err := rawReply(ctx, r)
		reply.Raw = true
		return reply, err
	}})
	for _, req := range []*sheepdog.FetchRequest{{WithData: true}, {MayBeRaw: true}} {
		req.Fence, req.Policy, req.Object, req.Layer, req.Count = testFence, testPolicy, testObject, 5, 100
		_, err := c.Fetch(testContext(t), req)
		wantError(t, err, sheepdog.ErrInvalid)
	}
}

// TestRawDataForOthersAreRefused: only a fetch that asked for them takes raw data.
func TestRawDataForOthersAreRefused(t *testing.T) {
	h := header{kind: kindRead | kindReply, flags: flagRaw, data: 4096}
	read := &call{sink: (*readSink)(&sheepdog.ReadRequest{Buf: make([]byte, 4096), States: make([]sheepdog.BlockState, 1)})}
	if _, err := read.ranges(h, appendStates(nil, []sheepdog.BlockState{sheepdog.Data}), 4096, nil); err == nil {
		t.Error("a read takes raw data")
	}
	reply := &sheepdog.FetchReply{Records: []sheepdog.Record{{State: sheepdog.Data}}}
	for _, mayBeRaw := range []bool{false, true} {
		s := &fetchSink{req: &sheepdog.FetchRequest{Count: 1, WithData: true, MayBeRaw: mayBeRaw}}
		_, err := (&call{sink: s}).ranges(h, appendFetchReply(nil, reply), 4096, nil)
		if (err == nil) != mayBeRaw {
			t.Errorf("a fetch that takes raw data, %v: %v", mayBeRaw, err)
		}
	}
}

// TestRawFrameKeepsItsMeta: what covers the data is covered itself.
func TestRawFrameKeepsItsMeta(t *testing.T) {
	f := &frame{kind: kindFetch | kindReply, flags: flagRaw, meta: []byte("sums"), data: [][]byte{blocks(1, 1)}}
	f.seal()
	h, err := decodeHeader(appendHeader(nil, f.header()))
	if err != nil || h.dataCRC != 0 || h.flags != flagRaw {
		t.Fatalf("header %+v: %v", h, err)
	}
	if h.checkMeta([]byte("sums")) != nil || h.checkMeta([]byte("sumt")) == nil {
		t.Error("the meta of a raw frame is not covered")
	}
	if h.checkData(bytes.Repeat([]byte{7}, 4096)) != nil {
		t.Error("raw data are verified on the way")
	}
}
