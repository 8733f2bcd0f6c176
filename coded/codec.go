package coded

import (
	"fmt"

	"github.com/klauspost/reedsolomon"

	"sheepdog"
)

// Codec is a Reed-Solomon code of Data and Parity shards over GF(2^8) with the
// systematic Vandermonde matrix of its library. The parity bytes are an on-disk
// contract; golden vectors are in the tests. It is safe for concurrent use.
type Codec struct {
	data, parity int
	rs           reedsolomon.Encoder
}

// NewCodec makes the codec of a policy with parity.
func NewCodec(p sheepdog.Policy) (*Codec, error) {
	c := &Codec{data: int(p.Copies), parity: p.ParityStrips()}
	if c.parity == 0 {
		return nil, fmt.Errorf("policy %s has no parity: %w", p, sheepdog.ErrInvalid)
	}
	rs, err := reedsolomon.New(c.data, c.parity, reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("policy %s: %v: %w", p, err, sheepdog.ErrInvalid)
	}
	c.rs = rs
	return c, nil
}

// Strips is the number of shards, data and parity.
func (c *Codec) Strips() int { return c.data + c.parity }

// Encode fills the parity shards. All shards have one length.
func (c *Codec) Encode(shards [][]byte) error {
	if err := c.rs.Encode(shards); err != nil {
		return fmt.Errorf("encode %d:%d: %w", c.data, c.parity, err)
	}
	return nil
}

// Reconstruct makes the shards want from the others; missing shards are nil. At
// least Data shards must be there.
func (c *Codec) Reconstruct(shards [][]byte, want []bool) error {
	if err := c.rs.ReconstructSome(shards, want); err != nil {
		return fmt.Errorf("reconstruct %d:%d: %w", c.data, c.parity, err)
	}
	return nil
}

// Verify reports whether the parity shards belong to the data shards.
func (c *Codec) Verify(shards [][]byte) (bool, error) { return c.rs.Verify(shards) }
