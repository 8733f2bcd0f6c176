package peer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sheepdog"
)

// sampleFrames are the encodings of one message of each kind.
func sampleFrames() map[string][]byte {
	return map[string][]byte{
		"preamble":   appendPreamble(nil, preamble{kind: KindRaft, version: 1, cluster: testCluster}),
		"answer":     appendAnswer(nil, preamble{kind: KindPeer, version: 1, cluster: testCluster}, answerWrongCluster),
		"header":     appendHeader(nil, header{kind: kindWrite, flags: flagMore, id: 0x0102030405060708, meta: 95, data: 4096, metaCRC: 0xaabbccdd, dataCRC: 0x11223344}),
		"write":      appendWrite(nil, writeRequest(make([]byte, 4096), 1)),
		"read":       appendRead(nil, &sheepdog.ReadRequest{Fence: testFence, Policy: testPolicy, Object: testObject, Layer: 5, Start: 6, Count: 7}),
		"states":     appendStates(nil, []sheepdog.BlockState{0, 0, 2, 1, 1}),
		"flush":      appendFlush(nil, &sheepdog.FlushRequest{Fence: testFence, Family: 3, Flushed: 4}),
		"seal":       appendSeal(nil, &sheepdog.SealRequest{Fence: testFence, Family: 3}),
		"sealReply":  appendSealReply(nil, sampleSeal()),
		"list":       appendList(nil, &sheepdog.ListRequest{Fence: testFence, Policy: testPolicy, Partitions: []sheepdog.Partition{1, 2}, Layer: 3, After: sheepdog.ListEntry{Object: testObject, Layer: 4, Digest: 5}, Limit: 6}),
		"listReply":  appendListReply(nil, &sheepdog.ListReply{Entries: []sheepdog.ListEntry{{Object: testObject, Layer: 4, Digest: 5}}, More: true}),
		"fetch":      appendFetch(nil, &sheepdog.FetchRequest{Fence: testFence, Policy: testPolicy, Object: testObject, Layer: 5, Start: 6, Count: 7, WithData: true, Verify: true}),
		"fetchRaw":   appendFetch(nil, &sheepdog.FetchRequest{Fence: testFence, Policy: testPolicy, Object: testObject, Layer: 5, Start: 6, Count: 7, WithData: true, MayBeRaw: true}),
		"fetchReply": appendFetchReply(nil, fetchReply(8, false)),
		"forward":    appendForward(nil, sampleForward()),
		"hello":      appendHello(nil, hello{node: 1, incarnation: 2, want: 3, wantIncarnation: 4, cluster: testCluster}),
		"error":      appendError(nil, sheepdog.ErrFenced),
	}
}

func sampleSeal() *sheepdog.SealReply {
	return &sheepdog.SealReply{
		Dirty:   []sheepdog.DirtyBlocks{{Object: testObject, Layer: 5, Start: 6, Count: 7, Stamp: sheepdog.Stamp{Token: 8, Seq: 9}}},
		Origins: []sheepdog.Origin{{Gateway: 10, Request: 11}},
	}
}

func sampleForward() *sheepdog.ForwardRequest {
	return &sheepdog.ForwardRequest{
		Family: 1, Token: 2, Op: sheepdog.ForwardZero, Offset: 3, Length: 4, FUA: true,
		Origin: sheepdog.Origin{Gateway: 5, Request: 6}, OriginDone: 7,
	}
}

// TestGoldenBytes pins the wire format: a change of it needs another
// sheepdog.ProtocolVersion.
func TestGoldenBytes(t *testing.T) {
	for name, got := range sampleFrames() {
		want, err := hex.DecodeString(strings.Join(strings.Fields(golden[name]), ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is\n%x, want\n%x", name, got, want)
		}
	}
}

func TestCodecsRefuseOtherLengths(t *testing.T) {
	for name, good := range sampleFrames() {
		if name == "error" || name == "header" || name == "preamble" || name == "answer" {
			continue
		}
		if err := decodeByName(name, good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range len(good) {
			if decodeByName(name, good[:n]) == nil {
				t.Errorf("%s: %d of %d bytes were accepted", name, n, len(good))
			}
		}
		if decodeByName(name, append(bytes.Clone(good), 0)) == nil {
			t.Errorf("%s: a byte too many was accepted", name)
		}
	}
}

// decodeByName decodes and, if it succeeds, encodes again and compares.
func decodeByName(name string, b []byte) error {
	var again []byte
	var err error
	switch name {
	case "write":
		var r sheepdog.WriteRequest
		data := make([]byte, 4096)
		if len(b) > 46 && b[46]&writeHasData == 0 {
			data = nil
		}
		if err = decodeWrite(b, data, &r); err == nil {
			again = appendWrite(nil, &r)
		}
	case "read":
		var r sheepdog.ReadRequest
		err = decodeRead(b, &r)
		again = appendRead(nil, &r)
	case "states":
		states := make([]sheepdog.BlockState, 5)
		if err = decodeStates(b, states); err == nil {
			again = b // runs may be split in several ways
		}
	case "hello":
		var h hello
		h, err = decodeHello(b)
		again = appendHello(nil, h)
	default:
		again, err = decodeReply(name, b)
	}
	if err == nil && !bytes.Equal(again, b) {
		return errors.New("encodes to something else")
	}
	return err
}

func decodeReply(name string, b []byte) ([]byte, error) {
	switch name {
	case "flush":
		r, err := decodeFlush(b)
		return appendFlush(nil, r), err
	case "seal":
		r, err := decodeSeal(b)
		return appendSeal(nil, r), err
	case "sealReply":
		r, err := decodeSealReply(b)
		return encodeIf(err, func() []byte { return appendSealReply(nil, r) }), err
	case "list":
		r, err := decodeList(b)
		return encodeIf(err, func() []byte { return appendList(nil, r) }), err
	case "listReply":
		r, err := decodeListReply(b)
		return encodeIf(err, func() []byte { return appendListReply(nil, r) }), err
	case "fetch", "fetchRaw":
		r, err := decodeFetch(b)
		return encodeIf(err, func() []byte { return appendFetch(nil, r) }), err
	case "fetchReply":
		_, err := decodeFetchReply(b, 8)
		return b, err // runs may be split in several ways
	case "forward":
		r, err := decodeForward(b, nil)
		return encodeIf(err, func() []byte { return appendForward(nil, r) }), err
	}
	return nil, errors.New("no such message")
}

func encodeIf(err error, encode func() []byte) []byte {
	if err != nil {
		return nil
	}
	return encode()
}

func TestDecodeKeepsValues(t *testing.T) {
	seal, err := decodeSealReply(appendSealReply(nil, sampleSeal()))
	if err != nil || !reflect.DeepEqual(seal, sampleSeal()) {
		t.Errorf("seal reply: %+v, %v", seal, err)
	}
	forward, err := decodeForward(appendForward(nil, sampleForward()), nil)
	if err != nil || !reflect.DeepEqual(forward, sampleForward()) {
		t.Errorf("forward: %+v, %v", forward, err)
	}
	fetch, err := decodeFetchReply(appendFetchReply(nil, fetchReply(100, false)), 100)
	if err != nil || !reflect.DeepEqual(fetch, fetchReply(100, false)) {
		t.Errorf("fetch reply: %+v, %v", fetch, err)
	}
}

func TestCountsAreCheckedBeforeAllocation(t *testing.T) {
	huge := be.AppendUint32(nil, 0xffffffff)
	allocs := testing.AllocsPerRun(10, func() {
		for _, f := range []func() error{
			func() error { _, err := decodeSealReply(huge); return err },
			func() error { _, err := decodeListReply(append([]byte{0}, huge...)); return err },
		} {
			if f() == nil {
				t.Error("accepted")
			}
		}
	})
	if allocs > 40 {
		t.Errorf("%v allocations", allocs)
	}
	h := header{kind: kindWrite, data: maxFrame}
	if _, err := decodeHeader(appendHeader(nil, h)); !errors.Is(err, errGarbled) {
		t.Errorf("frame beyond the limit: %v", err)
	}
	h = header{kind: kindWrite, meta: maxMeta + 1}
	if _, err := decodeHeader(appendHeader(nil, h)); !errors.Is(err, errGarbled) {
		t.Errorf("meta beyond the limit: %v", err)
	}
}

func TestHeaderNoticesEveryFlippedBit(t *testing.T) {
	good := appendHeader(nil, header{kind: kindRead, id: 77, meta: 46})
	for i := range 8 * len(good) {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, err := decodeHeader(b); err == nil {
			t.Errorf("bit %d flipped unnoticed", i)
		}
	}
}

func FuzzDecoders(f *testing.F) {
	for name, b := range sampleFrames() {
		f.Add(name, b)
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		if err := decodeByName(name, b); err != nil && err.Error() == "encodes to something else" {
			t.Errorf("%s %x is accepted but encodes to something else", name, b)
		}
	})
}

func FuzzFrameHeader(f *testing.F) {
	f.Add(sampleFrames()["header"])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		h, err := decodeHeader(b)
		if err == nil && (h.size() > maxFrame || !bytes.Equal(appendHeader(nil, h), b[:headerSize])) {
			t.Errorf("accepted %x as %+v", b, h)
		}
	})
}

func FuzzPreamble(f *testing.F) {
	f.Add(sampleFrames()["preamble"])
	f.Add(sampleFrames()["answer"])
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePreamble(b); err == nil && !bytes.Equal(appendPreamble(nil, p), b[:preambleSize]) {
			t.Errorf("accepted %x as %+v", b, p)
		}
		_, _ = decodeAnswer(b, preamble{kind: KindPeer, version: 1, cluster: testCluster})
		if err, ok := decodeError(b); ok && err == nil {
			t.Errorf("%x is an error that is nil", b)
		}
	})
}

func appendWrite(b []byte, r *sheepdog.WriteRequest) []byte {
	var room [writeSize]byte
	putWrite(room[:], r)
	return append(b, room[:]...)
}

// A write whose checksum is known beforehand is sent as one of which it is computed.
func TestKnownSumsTravelAsComputedOnes(t *testing.T) {
	for _, n := range []int{1, 2, 16} {
		plain := writeRequest(blocks(n, 3), uint32(n))
		known := *plain
		for i := range n {
			known.Sums = append(known.Sums, checksum(known.Data[i*sheepdog.BlockSize:][:sheepdog.BlockSize]))
		}
		sent := func(r *sheepdog.WriteRequest) []byte {
			q := queueToNobody(t)
			q.putWrites([]uint64{7}, []*sheepdog.WriteRequest{r}, false)
			return slices.Concat(q.cur.vec...)
		}
		if !bytes.Equal(sent(plain), sent(&known)) {
			t.Errorf("%d blocks: the bytes differ", n)
		}
	}
}
