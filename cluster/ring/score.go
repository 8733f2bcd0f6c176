package ring

import (
	"math/bits"

	"sheepdog"
)

const (
	fractionBits = 40 // of a fixed-point logarithm
	segmentBits  = 10 // the logarithm is linear within 2^-10 of an octave
	segments     = 1 << segmentBits
	restBits     = 32 // of the position within a segment that are used
)

// logTable holds log2(1 + i/segments) in fixed point. Linear interpolation
// between its entries is off by less than 2^-22, which shifts no node's share
// by more than a few millionths.
type logTable [segments + 1]uint64

func newLogTable() *logTable {
	var t logTable
	for i := range segments {
		t[i] = log2Mantissa(1<<63 | uint64(i)<<(63-segmentBits))
	}
	t[segments] = 1 << fractionBits
	return &t
}

// log2Mantissa is log2 of x/2^63 for x in [2^63, 2^64), in fixed point. It
// squares and halves, one bit of the result at a time.
func log2Mantissa(x uint64) (log uint64) {
	for range fractionBits {
		hi, lo := bits.Mul64(x, x)
		log <<= 1
		if hi>>63 == 1 { // the square is at least 2
			log |= 1
			x = hi
		} else {
			x = hi<<1 | lo>>63
		}
	}
	return log
}

// cost is -log2((hash+1)/2^64) in fixed point, at least 1 so that it can
// divide. The base of the logarithm cancels when costs are compared.
func (t *logTable) cost(hash uint64) uint64 {
	x := hash + 1
	if x == 0 {
		return 1
	}
	octave := 63 - bits.LeadingZeros64(x)
	mantissa := x << (63 - octave) << 1
	i := mantissa >> (64 - segmentBits)
	rest := mantissa << segmentBits >> (64 - restBits)
	log := uint64(octave)<<fractionBits + t[i] + (t[i+1]-t[i])*rest>>restBits
	return max(64<<fractionBits-log, 1)
}

// The seeds keep the hashes of nodes and partitions apart from each other and
// from sheepdog.ObjectID's.
func nodeSeed(id sheepdog.NodeID) uint64 {
	return mix64(uint64(id) + 0x6a09e667f3bcc908)
}

func partitionSeed(p sheepdog.Partition) uint64 {
	return mix64((uint64(p) + 1) * 0x9e3779b97f4a7c15)
}

// mix64 is the finaliser of SplitMix64 (Stafford's variant 13).
func mix64(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
