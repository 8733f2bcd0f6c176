package workload

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"sheepdog/tests/internal/register"
)

func TestSpansAreDisjointAndInside(t *testing.T) {
	for seed := range uint64(50) {
		const size = 64 << 20
		spans := Layout(rand.New(rand.NewPCG(seed, 0)), 100, size)
		if len(spans) < 80 {
			t.Fatalf("only %d registers", len(spans))
		}
		taken := map[uint64]bool{}
		for _, s := range spans {
			if s.Off%sector != 0 || s.Len%sector != 0 || s.Len == 0 || s.Off+uint64(s.Len) > size {
				t.Fatalf("%+v", s)
			}
			for i := s.Off; i < s.Off+uint64(s.Len); i += sector {
				if taken[i] {
					t.Fatalf("seed %d: %+v overlaps", seed, s)
				}
				taken[i] = true
			}
		}
	}
}

func TestSpansAreCutAtBlocks(t *testing.T) {
	for _, c := range []struct {
		span Span
		want string
	}{
		{Span{8192, 4096}, "[0]"}, {Span{8192, 8192}, "[0 8]"}, {Span{512, 4096}, "[0 7]"}, {Span{4096 + 3*512, 8704}, "[0 5 13]"}, {Span{1024, 512}, "[0]"},
	} {
		if got := fmt.Sprint(c.span.cuts()); got != c.want {
			t.Errorf("%+v: %s, want %s", c.span, got, c.want)
		}
	}
}

func TestOnlyWholeValuesDecode(t *testing.T) {
	p, q, scratch := make([]byte, 8192), make([]byte, 8192), make([]byte, 8192)
	if v, err := decode(p, 3, 0, scratch); v != 0 || err != nil {
		t.Error(v, err)
	}
	encode(p, 3, 77)
	if v, err := decode(p, 3, 0, scratch); v != 77 || err != nil {
		t.Error(v, err)
	}
	if _, err := decode(p, 4, 0, scratch); err == nil {
		t.Error("bytes of register 3 pass for 4")
	}
	encode(q, 3, register.Value(78))
	if v, err := decode(p[4096:], 3, 8, scratch); v != 77 || err != nil {
		t.Error(v, err)
	}
	if _, err := decode(p[4096:], 3, 0, scratch); err == nil {
		t.Error("the second block passes for the first")
	}
	for _, from := range []int{512, 4096, 7680} { // torn, and old in part
		torn := append(append([]byte{}, p[:from]...), q[from:]...)
		if _, err := decode(torn, 3, 0, scratch); err == nil {
			t.Errorf("torn at %d passes", from)
		}
	}
	for bit := range len(p) * 8 {
		if bit%997 == 0 {
			p[bit/8] ^= 1 << (bit % 8)
			if v, err := decode(p, 3, 0, scratch); err == nil {
				t.Errorf("bit %d flipped passes as %d", bit, v)
			}
			p[bit/8] ^= 1 << (bit % 8)
		}
	}
}
