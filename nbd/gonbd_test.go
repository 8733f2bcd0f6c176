// The client of go-nbd builds without cgo on this platform only.

//go:build linux && amd64

package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"testing"

	gonbd "github.com/pojntfx/go-nbd/pkg/client"
	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// The client of pojntfx/go-nbd lists our exports. It takes only the first reply
// to LIST, so one export is all it ever sees.
func TestGoNBDClientLists(t *testing.T) {
	g := newRig(t, newMemDevice(4096))
	names, err := gonbd.List(g.dial())
	if err != nil || !slices.Equal(names, []string{"disk"}) {
		t.Errorf("listed %q, err %v", names, err)
	}
}

// Its Connect begins with an ioctl on /dev/nbdN and cannot run without. Here
// the bytes of its negotiation are sent as it sends them, piece by piece and
// with a GO whose header has length 0, and the answers are read as it does.
func TestGoNBDClientNegotiation(t *testing.T) {
	g := newRig(t, newMemDevice(1<<20))
	nc := g.dial()
	var hello protocol.NegotiationNewstyleHeader
	if err := binary.Read(nc, binary.BigEndian, &hello); err != nil || hello.OldstyleMagic != protocol.NEGOTIATION_MAGIC_OLDSTYLE {
		t.Fatalf("greeting %+v, err %v", hello, err)
	}
	for _, piece := range []any{
		make([]byte, 4),
		protocol.NegotiationOptionHeader{OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION, ID: protocol.NEGOTIATION_ID_OPTION_GO},
		uint32(4), []byte("disk"), uint16(0),
	} {
		if err := binary.Write(nc, binary.BigEndian, piece); err != nil {
			t.Fatal(err)
		}
	}
	var size uint64
	var block protocol.NegotiationReplyBlockSize
	for {
		var reply protocol.NegotiationReplyHeader
		if err := binary.Read(nc, binary.BigEndian, &reply); err != nil {
			t.Fatal(err)
		}
		if reply.Type == protocol.NEGOTIATION_TYPE_REPLY_ACK {
			break
		}
		raw := make([]byte, reply.Length)
		if _, err := io.ReadFull(nc, raw); err != nil || reply.Type != protocol.NEGOTIATION_TYPE_REPLY_INFO {
			t.Fatalf("reply %+v %q, err %v", reply, raw, err)
		}
		switch binary.BigEndian.Uint16(raw) {
		case protocol.NEGOTIATION_TYPE_INFO_EXPORT:
			size = binary.BigEndian.Uint64(raw[2:])
		case protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE:
			binary.Read(bytes.NewReader(raw), binary.BigEndian, &block)
		}
	}
	if size != 1<<20 || block.PreferredBlockSize < gonbd.MinimumBlockSize || block.PreferredBlockSize > gonbd.MaximumBlockSize {
		t.Errorf("size %d, blocks %+v", size, block)
	}
	c := &client{t: t, nc: nc, r: newReplyReader(nc)}
	if a := c.do(header{cmd: cmdWrite, length: 4}, []byte("data")); a.errno != 0 {
		t.Errorf("errno %d", a.errno)
	}
}

// A GO that is really empty is refused, at once if the next option follows.
func TestEmptyGo(t *testing.T) {
	c := newRig(t, newMemDevice(4096)).hello()
	c.write(slices.Concat(optionBytes(optGo, nil), optionBytes(optAbort, nil)))
	if all := c.optionReplies(optGo); all[0].typ != repErrInvalid {
		t.Errorf("reply %#x", all[0].typ)
	}
	c.optionReplies(optAbort)
	c.ended()
}
