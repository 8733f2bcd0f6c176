package peer

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"unsafe"
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

// Bug: while somebody kept the room of a message of 1 MiB, the first 256 KiB of the next were
// received into other room than the rest, and copied.
func TestLongMessagesStayWhereTheyBegin(t *testing.T) {
	const long = 1<<20 + 200
	b := newInBuffer(trickle{bytes.NewReader(make([]byte, 8*long)), 100 << 10}, new(buffers))
	defer b.close()
	for i := range 8 {
		if err := b.ensure(headerSize); err != nil {
			t.Fatal(err)
		}
		room := b.chunk
		if err := b.ensure(long); err != nil {
			t.Fatal(err)
		}
		if i > 0 && b.chunk != room {
			t.Errorf("message %d moved to other room", i)
		}
		b.skip(long)
		b.chunk.hold()
		defer b.chunk.release()
	}
}

// The data of a long write begin with a page of memory, if it comes by itself.
func TestDataOfLongWritesBeginWithAPage(t *testing.T) {
	const size = 1 << 20
	all := make([]byte, 5*(headerSize+writeSize+size))
	b := newInBuffer(bytes.NewReader(all), new(buffers))
	defer b.close()
	for i := range 5 {
		if err := b.ensure(headerSize); err != nil {
			t.Fatal(err)
		}
		if err := b.ensure(headerSize + writeSize + size); err != nil {
			t.Fatal(err)
		}
		data := b.unread()[headerSize+writeSize:][:size]
		if at := uintptr(unsafe.Pointer(&data[0])); at%4096 != 0 {
			t.Errorf("the data of message %d begin at %#x", i, at)
		}
		b.skip(headerSize + writeSize + size)
		if i%2 == 0 { // somebody keeps it: the next comes to other room
			kept := b.chunk
			kept.hold()
			defer kept.release()
		}
	}
}

// The largest message that is allowed has room.
func TestLargestFrameHasRoom(t *testing.T) {
	b := newInBuffer(bytes.NewReader(make([]byte, maxFrame)), new(buffers))
	defer b.close()
	if err := b.ensure(maxFrame); err != nil || len(b.unread()) < maxFrame {
		t.Errorf("%d of %d bytes: %v", len(b.unread()), maxFrame, err)
	}
}
