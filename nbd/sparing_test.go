package nbd

import (
	"bytes"
	"io"
	"testing"
)

// sized notes the room that each read was given, and gives all that fits.
type sized struct {
	left  io.Reader
	rooms []int
}

func (s *sized) Read(p []byte) (int, error) {
	s.rooms = append(s.rooms, len(p))
	return s.left.Read(p)
}

// Bug: 200 clients with one request in flight each took 260 KiB apiece to read it to.
// Whoever has more in flight gets them, and large payloads pass by: of those no more is
// copied than what came with a head.
func TestReadersOfFewRequestsTakeLittleMemory(t *testing.T) {
	all := make([]byte, 4*readBufferBytes)
	for i := range all {
		all[i] = byte(i * 7 / 5)
	}
	for _, c := range []struct {
		what   string
		chunk  int // bytes that the client sends at a time
		pieces []int
		most   int // room that may be given, but for payloads
	}{
		{"a small request at a time", 4096 + headerSize, []int{headerSize, 4096, headerSize, 4096, headerSize, 4096}, firstReadBytes},
		{"a large one at a time", headerSize + 2*readBufferBytes, []int{headerSize, 2 * readBufferBytes}, firstReadBytes},
		{"large ones that have all come", len(all), []int{headerSize, 300 << 10, headerSize, 300 << 10, headerSize, 300 << 10}, firstReadBytes},
		{"many small ones", len(all), []int{4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096}, readBufferBytes},
	} {
		from := &sized{left: &inChunks{all, c.chunk}}
		r := new(memory).newReader(from)
		at := 0
		for _, n := range c.pieces {
			p := make([]byte, n)
			if n, err := r.payload(p); n != len(p) || err != nil || !bytes.Equal(p, all[at:at+n]) {
				t.Fatalf("%s: bytes from %d on are wrong: %v", c.what, at, err)
			}
			at += n
		}
		largest := 0
		for _, n := range from.rooms {
			if n <= readBufferBytes {
				largest = max(largest, n)
			}
		}
		if largest > c.most || c.most == readBufferBytes && largest < readBufferBytes/2 {
			t.Errorf("%s: %d bytes of the buffer were taken, want %d", c.what, largest, c.most)
		}
	}
}

// inChunks gives so many bytes at a time.
type inChunks struct {
	b []byte
	n int
}

func (c *inChunks) Read(p []byte) (int, error) {
	n := copy(p, c.b[:min(c.n, len(c.b))])
	c.b = c.b[n:]
	return n, nil
}
