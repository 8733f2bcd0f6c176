package peer

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// trickle gives at most so many bytes at a time.
type trickle struct {
	from io.Reader
	most int
}

func (t trickle) Read(p []byte) (int, error) { return t.from.Read(p[:min(len(p), t.most)]) }

// Bug: the room for a message of 1 MiB went after each, so that of the next the first
// 256 KiB were received elsewhere and copied. It stays while such messages come, and
// goes soon when they do not.
func TestRoomForLongMessagesStaysWhileTheyCome(t *testing.T) {
	const long, short, rounds = 1<<20 + 200, 100, 20
	rng := rand.NewChaCha8([32]byte{1})
	all := make([]byte, rounds*(long+short)+200<<10)
	rng.Read(all)
	b := newInBuffer(trickle{bytes.NewReader(all), 100 << 10}, new(buffers))
	defer b.close()
	at := 0
	take := func(n int) {
		t.Helper()
		if err := b.ensure(min(n, headerSize)); err != nil {
			t.Fatal(err)
		}
		if err := b.ensure(n); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.unread()[:n], all[at:at+n]) {
			t.Fatalf("bytes from %d on are wrong", at)
		}
		b.skip(n)
		at += n
	}
	var room *chunk
	for i := range rounds {
		take(long)
		take(short)
		if i == 0 {
			room = b.chunk
		} else if b.chunk != room {
			t.Fatalf("message %d took other room than the one before", i)
		}
	}
	at += len(b.unread())
	b.skip(len(b.unread()))
	b.src = trickle{bytes.NewReader(all[at:]), short}
	for range 2 * quietReads {
		take(short)
	}
	if len(b.chunk.b) > 2*startBuffer {
		t.Errorf("%d bytes of room are kept for short messages", len(b.chunk.b))
	}
}
