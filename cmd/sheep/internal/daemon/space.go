package daemon

import (
	"fmt"
	"strconv"
	"strings"
)

// Bounds of --reserve, in bytes: less would not do for deleting.
const (
	minReserve = 16 << 20
	maxReserve = 1 << 50
)

func (o *options) parseSpace(s *Settings) error {
	if o.nearFull < 1 || o.full > 100 || o.nearFull > o.full {
		return fmt.Errorf("Invalid --near-full %d and --full %d: want 1 to 100, the first not above the second", o.nearFull, o.full)
	}
	s.NearFull, s.Full = o.nearFull, o.full
	n, err := parseSize(o.reserve)
	if err != nil || n < minReserve || n > maxReserve {
		return fmt.Errorf("Invalid size '%s' (--reserve): want 16M or more, as bytes or with one of K, M, G, T", o.reserve)
	}
	s.Reserve = n
	if s.DefragmentRate, err = parseSize(o.defragmentRate); err != nil {
		return fmt.Errorf("Invalid size '%s' (--defragment-rate): want bytes a second, with one of K, M, G, T or without, or 0", o.defragmentRate)
	}
	return nil
}

// parseSize reads a number of bytes with a unit of 1024.
func parseSize(text string) (int64, error) {
	shift := 0
	if last := len(text) - 1; last >= 0 {
		if i := strings.IndexByte("KMGTkmgt", text[last]); i >= 0 {
			shift, text = 10*(i%4+1), text[:last]
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < 0 || n > maxReserve>>shift) {
		err = strconv.ErrRange
	}
	return n << shift, err
}
