package nbd

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// starterDevice begins writes: some it refuses, some it ends at once, some later
// from another goroutine, some fail.
type starterDevice struct {
	*memDevice
	wg      sync.WaitGroup
	begun   atomic.Int64
	refused atomic.Int64
	batches atomic.Int64
}

var errStarted = errors.New("this one fails")

func (d *starterDevice) StartWrites(ctx context.Context, ws []Write, begun []bool) {
	d.batches.Add(1)
	for i, w := range ws {
		switch block := w.Off / 4096 % 8; {
		case block == 0:
			d.refused.Add(1)
			continue
		case block == 1:
			begun[i] = true
			w.Done(errStarted)
		case block < 5:
			begun[i] = true
			w.Done(d.WriteAt(ctx, w.Data, w.Off, false))
		default:
			begun[i] = true
			d.wg.Go(func() { w.Done(d.WriteAt(ctx, w.Data, w.Off, false)) })
		}
		d.begun.Add(1)
	}
}

type starterAttachment struct {
	*attachment
	Starter
}

// Begun writes have the effect, the answers and the order of replies that writes
// in goroutines have, at any depth.
func TestBegunWritesEqualOthers(t *testing.T) {
	const blocks = 256
	dev := &starterDevice{memDevice: newMemDevice(blocks * 4096)}
	defer dev.wg.Wait()
	g := newRig(t, dev)
	for _, depth := range []int{1, 3, 16, 100} {
		c := g.connect("disk", true)
		want := dev.bytes(0, blocks*4096)
		rnd := rand.New(rand.NewPCG(uint64(depth), 1))
		for range 20 {
			var sent []byte
			headers := make(map[uint64]header)
			for _, block := range rnd.Perm(blocks)[:depth] { // no overlaps
				h := header{cmd: cmdWrite, cookie: uint64(block) + 1, off: uint64(block) * 4096, length: 4096}
				p := bytes.Repeat([]byte{byte(rnd.Uint32())}, 4096)
				sent = append(sent, requestBytes(h, p)...)
				headers[h.cookie] = h
				if block%8 != 1 {
					copy(want[h.off:], p)
				}
			}
			go c.write(sent)
			for range depth {
				a := c.receive(func(cookie uint64) header { return headers[cookie] })
				h, ok := headers[a.cookie]
				if !ok {
					t.Fatalf("a reply with cookie %d, which was not sent or was answered before", a.cookie)
				}
				delete(headers, a.cookie)
				if failed := h.off/4096%8 == 1; failed != (a.errno != 0) {
					t.Fatalf("write of block %d: errno %d", h.off/4096, a.errno)
				}
			}
		}
		if !bytes.Equal(dev.bytes(0, blocks*4096), want) {
			t.Fatalf("depth %d: the disk has other bytes than were written", depth)
		}
	}
	if dev.begun.Load() == 0 || dev.refused.Load() == 0 || dev.batches.Load() >= dev.begun.Load() {
		t.Errorf("%d begun, %d refused, in %d batches", dev.begun.Load(), dev.refused.Load(), dev.batches.Load())
	}
}

// A client that reads no replies holds up nobody who ends its writes.
func TestBegunWritesDoNotWaitForTheClient(t *testing.T) {
	dev := &starterDevice{memDevice: newMemDevice(64 << 20)}
	g := newRig(t, dev)
	c := g.connect("disk", true)
	var sent []byte
	const many = 20_000
	for i := range many {
		sent = append(sent, requestBytes(header{cmd: cmdWrite, cookie: uint64(i), off: 2 * 4096, length: 1}, []byte{1})...)
	}
	written := make(chan struct{})
	go func() { defer close(written); c.write(sent) }()
	for range many { // the socket holds far less; it comes out as it is read
		if a := c.receive(func(uint64) header { return header{cmd: cmdWrite, length: 1} }); a.errno != 0 {
			t.Fatalf("errno %d", a.errno)
		}
	}
	<-written
	dev.wg.Wait()
}
