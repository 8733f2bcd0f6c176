package peer

import (
	"context"
	"sync"
	"testing"

	"sheepdog"
)

// benchWrite keeps depth writes of n blocks in flight against a handler that
// does nothing.
func benchWrite(b *testing.B, n, depth int) {
	c := pair(b, &fakeHandler{})
	b.SetBytes(int64(n) * sheepdog.BlockSize)
	b.ReportAllocs()
	var wg sync.WaitGroup
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	b.ResetTimer()
	for range depth {
		wg.Go(func() {
			reqs := []*sheepdog.WriteRequest{writeRequest(blocks(n, 1), uint32(n))}
			done := make(chan error, 1)
			answer := func(_ int, err error) { done <- err }
			for range work {
				c.Write(context.Background(), reqs, answer)
				if err := <-done; err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func benchRead(b *testing.B, n, depth int) {
	c := pair(b, &fakeHandler{read: func(_ context.Context, r *sheepdog.ReadRequest) error {
		for i := range r.States {
			r.States[i] = sheepdog.Data
		}
		return nil
	}})
	b.SetBytes(int64(n) * sheepdog.BlockSize)
	b.ReportAllocs()
	var wg sync.WaitGroup
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	b.ResetTimer()
	for range depth {
		wg.Go(func() {
			r := &sheepdog.ReadRequest{Count: uint32(n), Buf: make([]byte, n*sheepdog.BlockSize), States: make([]sheepdog.BlockState, n)}
			for range work {
				if err := c.Read(context.Background(), r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkWrite4KDepth1(b *testing.B)  { benchWrite(b, 1, 1) }
func BenchmarkWrite4KDepth32(b *testing.B) { benchWrite(b, 1, 32) }
func BenchmarkWrite1MDepth4(b *testing.B)  { benchWrite(b, 256, 4) }
func BenchmarkRead4KDepth1(b *testing.B)   { benchRead(b, 1, 1) }
func BenchmarkRead4KDepth32(b *testing.B)  { benchRead(b, 1, 32) }
func BenchmarkRead1MDepth4(b *testing.B)   { benchRead(b, 256, 4) }
