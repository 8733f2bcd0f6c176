package peer

import (
	"sheepdog"
)

const (
	maxMethod    = 255
	maxErrorText = 1024
)

// hello is the first frame of either side.
//
//	0      8             16     24               32               48
//	| node | incarnation | want | want incarnation | cluster id     |
//
// want is who the sender believes to talk to; zero means anybody.
type hello struct {
	node            sheepdog.NodeID
	incarnation     sheepdog.Incarnation
	want            sheepdog.NodeID
	wantIncarnation sheepdog.Incarnation
	cluster         sheepdog.ClusterID
}

func appendHello(b []byte, h hello) []byte {
	b = be.AppendUint64(b, uint64(h.node))
	b = be.AppendUint64(b, uint64(h.incarnation))
	b = be.AppendUint64(b, uint64(h.want))
	b = be.AppendUint64(b, uint64(h.wantIncarnation))
	return append(b, h.cluster[:]...)
}

func decodeHello(meta []byte) (hello, error) {
	c := cursor{b: meta}
	h := hello{
		node: sheepdog.NodeID(c.u64()), incarnation: sheepdog.Incarnation(c.u64()),
		want: sheepdog.NodeID(c.u64()), wantIncarnation: sheepdog.Incarnation(c.u64()),
	}
	copy(h.cluster[:], c.take(len(h.cluster)))
	return h, c.end("hello")
}

// isFor reports whether h wants to talk to this life of this node.
func (h hello) isFor(node sheepdog.NodeID, inc sheepdog.Incarnation) bool {
	return (h.want == 0 || h.want == node) && (h.wantIncarnation == 0 || h.wantIncarnation == inc)
}

// checkForward refuses what appendForward cannot carry.
func checkForward(r *sheepdog.ForwardRequest, buf int) error {
	dataWant, bufWant := 0, 0
	switch r.Op {
	case sheepdog.ForwardRead:
		bufWant = int(r.Length)
	case sheepdog.ForwardWrite:
		dataWant = int(r.Length)
	case sheepdog.ForwardZero, sheepdog.ForwardFlush:
	default:
		return invalid("forward: unknown operation %d", r.Op)
	}
	if len(r.Data) != dataWant || buf != bufWant || max(dataWant, bufWant) > sheepdog.MaxTransfer {
		return invalid("forward: operation %d of %d bytes with data of %d and a buffer of %d bytes (limit %d)", r.Op, r.Length, len(r.Data), buf, sheepdog.MaxTransfer)
	}
	if r.Offset > sheepdog.MaxVDISize || r.Offset+uint64(r.Length) > sheepdog.MaxVDISize {
		return invalid("forward: %d bytes at %d lie beyond the largest VDI", r.Length, r.Offset)
	}
	return nil
}

// appendForward encodes a forward; the data of a write follow as the data of
// the frame, and those of a read as the data of the reply.
//
//	0        8       16       24       28   29    30               38               46           54
//	| family | token | offset | length | op | FUA | origin gateway | origin request | originDone |
func appendForward(b []byte, r *sheepdog.ForwardRequest) []byte {
	b = be.AppendUint64(b, uint64(r.Family))
	b = be.AppendUint64(b, uint64(r.Token))
	b = be.AppendUint64(b, r.Offset)
	b = be.AppendUint32(b, r.Length)
	b = append(b, byte(r.Op), boolByte(r.FUA))
	return be.AppendUint64(appendOrigin(b, r.Origin), r.OriginDone)
}

// decodeForward reads a forward; its Data are a part of data.
func decodeForward(meta, data []byte) (*sheepdog.ForwardRequest, error) {
	c := cursor{b: meta}
	r := &sheepdog.ForwardRequest{
		Family: sheepdog.FamilyID(c.u64()), Token: sheepdog.Token(c.u64()), Offset: c.u64(), Length: c.u32(), Op: sheepdog.ForwardOp(c.u8()),
	}
	fua := c.u8()
	r.FUA, r.Origin, r.OriginDone = fua == 1, c.origin(), c.u64()
	if err := c.end("forward"); err != nil {
		return nil, err
	}
	if fua > 1 {
		return nil, invalid("forward: FUA is %d", fua)
	}
	buf := 0
	if r.Op == sheepdog.ForwardRead {
		buf = int(r.Length)
	}
	if len(data) > 0 {
		r.Data = data[:len(data):len(data)]
	}
	return r, checkForward(r, buf)
}

// checkControl refuses a call that does not fit.
func checkControl(method string, body int) error {
	if method == "" || len(method) > maxMethod {
		return invalid("control: method of %d bytes: want 1 to %d", len(method), maxMethod)
	}
	if body > maxBody {
		return invalid("control %s: body of %d bytes: the limit is %d", method, body, maxBody)
	}
	return nil
}

// A control call is its method as meta and its body as data; the reply's body
// is its data.
func decodeControl(meta, data []byte) (method string, body []byte, err error) {
	return string(meta), data, checkControl(string(meta), len(data))
}

// appendError encodes an error: its code, then its text.
func appendError(b []byte, err error) []byte {
	text := err.Error()
	return append(append(b, sheepdog.ErrorCode(err)), text[:min(len(text), maxErrorText)]...)
}

// decodeError reads an error; the second result says whether it could.
func decodeError(meta []byte) (error, bool) {
	if len(meta) < 1 || len(meta) > 1+maxErrorText || meta[0] == 0 {
		return nil, false
	}
	return sheepdog.WireError(meta[0], string(meta[1:])), true
}
