package node

import (
	"bytes"
	"context"
	"time"

	"sheepdog"
	"sheepdog/vdi"
)

// zeroUnit is the granularity at which zeros are told from data in what is
// written through the API.
const zeroUnit = 64 << 10

// put writes p at off. Whole blocks of zeros take no space and no time: they are
// recorded.
func (c *counters) put(ctx context.Context, v *vdi.Volume, p []byte, off uint64) error {
	for len(p) > 0 {
		n, zero := zeroRun(p)
		if zero {
			n, zero = wholeBlocks(off, n)
		}
		var err error
		if zero {
			c.begin(&c.remove)
			err = v.ZeroAt(ctx, off, uint64(n))
			c.end(&c.remove, time.Time{}, err, 0)
		} else {
			c.begin(&c.write)
			err = v.WriteAt(ctx, p[:n], off)
			c.end(&c.write, time.Time{}, err, n)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+uint64(n)
	}
	return nil
}

// wholeBlocks is how many of n bytes at off to take next: the bytes before the
// first block border, the whole blocks (true), or what is after the last.
func wholeBlocks(off uint64, n int) (int, bool) {
	if in := int(off % sheepdog.BlockSize); in > 0 {
		return min(n, sheepdog.BlockSize-in), false
	}
	if whole := n &^ (sheepdog.BlockSize - 1); whole > 0 {
		return whole, true
	}
	return n, false
}

// zeroRun is how many bytes at the beginning of p are alike, in whole units but
// for the end of p: all zeros, or data.
func zeroRun(p []byte) (n int, zero bool) {
	for n < len(p) {
		unit := p[n:min(n+zeroUnit, len(p))]
		if is := allZero(unit); n == 0 {
			zero = is
		} else if is != zero {
			break
		}
		n += len(unit)
	}
	return n, zero
}

func allZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[:len(p)-1], p[1:])
}
