package coded

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/bits"
	"math/rand/v2"
	"testing"

	"sheepdog"
)

func policy(d, p int) sheepdog.Policy { return sheepdog.Policy{Copies: uint8(d), Parity: uint8(p)} }

func shardsOf(t *testing.T, p sheepdog.Policy, size int) (*Codec, [][]byte) {
	t.Helper()
	c, err := NewCodec(p)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, uint64(p.Copies)<<8|uint64(p.Parity)))
	shards := make([][]byte, c.Strips())
	for k := range shards {
		shards[k] = make([]byte, size)
		if k < c.data {
			for i := range shards[k] {
				shards[k][i] = byte(rng.Uint32())
			}
		}
	}
	if err := c.Encode(shards); err != nil {
		t.Fatal(err)
	}
	return c, shards
}

// lose makes every set of exactly n lost shards and wants the rest to give them
// back.
func lose(t *testing.T, p sheepdog.Policy, n int) (sets int) {
	c, shards := shardsOf(t, p, 64)
	for set := range uint32(1) << c.Strips() {
		if bits.OnesCount32(set) != n {
			continue
		}
		sets++
		left, want := make([][]byte, len(shards)), make([]bool, len(shards))
		for k := range shards {
			if set>>k&1 == 0 {
				left[k] = shards[k]
			} else {
				want[k] = true
			}
		}
		if err := c.Reconstruct(left, want); err != nil {
			t.Fatalf("%s without %b: %v", p, set, err)
		}
		for k := range shards {
			if !bytes.Equal(left[k], shards[k]) {
				t.Fatalf("%s without %b: shard %d is wrong", p, set, k)
			}
		}
	}
	return sets
}

func TestEveryLossSet(t *testing.T) {
	for _, c := range []struct{ d, p, sets int }{{4, 2, 15}, {12, 3, 455}, {2, 1, 3}, {8, 3, 165}} {
		for n := 1; n <= c.p; n++ {
			sets := lose(t, policy(c.d, c.p), n)
			if n == c.p && sets != c.sets {
				t.Errorf("%d:%d: %d sets of %d losses, want %d", c.d, c.p, sets, n, c.sets)
			}
		}
	}
}

// Every policy that a VDI may have loses as many random shards as it has parity.
func TestEveryPolicy(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 3))
	for _, d := range []int{2, 4, 8, 12, 16} {
		for p := 1; p <= 15; p++ {
			c, shards := shardsOf(t, policy(d, p), 32)
			for range 20 {
				left, want := append([][]byte(nil), shards...), make([]bool, len(shards))
				for _, k := range rng.Perm(len(shards))[:p] {
					left[k], want[k] = nil, true
				}
				if err := c.Reconstruct(left, want); err != nil {
					t.Fatal(err)
				}
				for k := range shards {
					if !bytes.Equal(left[k], shards[k]) {
						t.Fatalf("%d:%d: shard %d is wrong", d, p, k)
					}
				}
			}
			left := append([][]byte(nil), shards...)
			for k := range p + 1 {
				left[k] = nil
			}
			if err := c.Reconstruct(left, make([]bool, len(shards))); err == nil && left[0] != nil {
				t.Errorf("%d:%d gives back %d lost shards", d, p, p+1)
			}
		}
	}
}

// The parity bytes are on disks: a difference here means that old strips cannot
// be read together with new ones.
func TestGoldenParity(t *testing.T) {
	for _, g := range []struct {
		d, p int
		want uint32
	}{{2, 1, 0x4b2ad63a}, {4, 2, 0x5f0d7dcd}, {8, 3, 0xccecc90b}, {12, 3, 0xca05ca39}, {16, 15, 0x3cb4e2b1}} {
		c, err := NewCodec(policy(g.d, g.p))
		if err != nil {
			t.Fatal(err)
		}
		shards := make([][]byte, c.Strips())
		for k := range shards {
			shards[k] = make([]byte, 256)
			for i := range shards[k] {
				if k < g.d {
					shards[k][i] = byte(k*31 + i*7)
				}
			}
		}
		if err := c.Encode(shards); err != nil {
			t.Fatal(err)
		}
		if got := crc32.ChecksumIEEE(bytes.Join(shards[g.d:], nil)); got != g.want {
			t.Errorf("%d:%d: parity %#x, want %#x", g.d, g.p, got, g.want)
		}
	}
}

func randomStates(rng *rand.Rand, n uint32, share float64) []sheepdog.BlockState {
	states := make([]sheepdog.BlockState, n)
	for i := range states {
		if rng.Float64() < share {
			states[i] = sheepdog.Data
		} else {
			states[i] = sheepdog.BlockState(rng.IntN(2))
		}
	}
	return states
}

// What is dealt to strips can be found again, holes cost nothing, and padding is
// not stored.
func TestLayout(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	for _, p := range []sheepdog.Policy{policy(2, 1), policy(4, 2), policy(12, 3), policy(16, 15)} {
		for _, share := range []float64{0, 0.01, 0.5, 1} {
			t.Run(fmt.Sprint(p, " ", share), func(t *testing.T) {
				l := newLayout(p, 2048)
				c, _ := NewCodec(p)
				states := randomStates(rng, l.segment, share)
				h := newHeader(7, 9, 1, states)
				data := make([]byte, l.segment*sheepdog.BlockSize)
				for i := range states {
					for b := range 16 {
						data[i*sheepdog.BlockSize+b] = byte(rng.Uint32())
					}
				}
				seg, err := l.code(c, h, data)
				if err != nil {
					t.Fatal(err)
				}
				stored := 0
				for k := range l.strips() {
					b := l.strip(seg, k)
					stored += len(b)/sheepdog.BlockSize - 1
					back, err := l.decode(b[:sheepdog.BlockSize], 7, 9, 1)
					if err != nil || back.count != h.count {
						t.Fatalf("header of strip %d: %v", k, err)
					}
				}
				rows := (int(h.count) + l.data - 1) / l.data
				if want := int(h.count) + rows*l.parity; stored != want {
					t.Errorf("%d blocks stored, want %d", stored, want)
				}
				for i, s := range states {
					if s != sheepdog.Data {
						continue
					}
					q := int(h.rank[i])
					at := seg.shards[q%l.data][q/l.data*sheepdog.BlockSize:]
					if !bytes.Equal(at[:16], data[i*sheepdog.BlockSize:][:16]) {
						t.Fatalf("block %d is not where it should be", i)
					}
				}
			})
		}
	}
}

// A header tells whose it is; damage and strangers are found.
func TestHeader(t *testing.T) {
	l := newLayout(policy(4, 2), 1024)
	h := newHeader(7, 9, 0, randomStates(rand.New(rand.NewPCG(6, 7)), l.segment, 0.3))
	good := l.encode(h)
	if _, err := l.decode(good, 7, 9, 0); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"layer":   second(l.decode(good, 8, 9, 0)),
		"index":   second(l.decode(good, 7, 8, 0)),
		"segment": second(l.decode(good, 7, 9, 1)),
		"policy":  second(newLayout(policy(2, 2), 1024).decode(good, 7, 9, 0)),
		"zeros":   second(l.decode(make([]byte, sheepdog.BlockSize), 7, 9, 0)),
	} {
		if err == nil {
			t.Errorf("another %s is taken", name)
		}
	}
	for _, at := range []int{0, 5, 6, 20, 28, 200, 3000, 4095} {
		b := bytes.Clone(good)
		b[at] ^= 1
		if _, err := l.decode(b, 7, 9, 0); err == nil {
			t.Errorf("byte %d may change", at)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzHeader(f *testing.F) {
	l := newLayout(policy(4, 2), 1024)
	f.Add(l.encode(newHeader(7, 9, 0, make([]sheepdog.BlockState, l.segment))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := l.decode(b, 7, 9, 0); err == nil && len(h.states) != int(l.segment) {
			t.Error("a header of another size")
		}
	})
}
