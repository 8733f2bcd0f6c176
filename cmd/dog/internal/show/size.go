// Package show turns documents of the control API into the text that dog
// prints: tables for people, raw lines for scripts, trees. Columns, widths and
// raw formats are an interface that programs outside parse; the golden tests
// hold them. It reads and writes nothing itself.
package show

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes as people read it: in MB or a larger unit of 1024,
// with one decimal below 10.
func Size(bytes uint64) string {
	const units = "MGTPEZY"
	n, unit := float64(bytes)/(1<<20), 0
	for n >= 1024 && unit < len(units)-1 {
		n /= 1024
		unit++
	}
	if n >= 10 {
		return fmt.Sprintf("%.0f %cB", n, units[unit])
	}
	return fmt.Sprintf("%.1f %cB", n, units[unit])
}

// ParseSize reads a number of bytes: digits, perhaps with a decimal point, and
// perhaps one letter B K M G T P, a power of 1024. A fraction of a byte is cut
// off.
func ParseSize(s string) (uint64, error) {
	bad := fmt.Errorf("invalid size '%s': want a number, perhaps followed by B, K, M, G, T or P (powers of 1024), as 1.5G", s)
	digits, shift := s, 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("BKMGTP", s[n-1]&^0x20); i >= 0 && s[n-1] > '9' {
			digits, shift = s[:n-1], 10*i
		}
	}
	if strings.Trim(digits, "0123456789.") != "" || strings.Count(digits, ".") > 1 || strings.Trim(digits, ".") == "" {
		return 0, bad
	}
	if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
		if n > math.MaxUint64>>shift {
			return 0, fmt.Errorf("size '%s' is too large", s)
		}
		return n << shift, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, bad
	}
	if f = math.Ldexp(f, shift); f >= 1<<64 {
		return 0, fmt.Errorf("size '%s' is too large", s)
	}
	return uint64(f), nil
}

// percent is used of all, in whole percent, rounded down.
func percent(used, all uint64) uint64 {
	if all == 0 {
		return 0
	}
	return uint64(float64(used) / float64(all) * 100)
}

// Bar is a progress bar, to be printed over the last one after a carriage
// return.
func Bar(done, total uint64) string {
	const width = 50
	part := 1.0
	if total > 0 {
		part = min(float64(done)/float64(total), 1)
	}
	n := int(part * width)
	bar := strings.Repeat("=", n)
	if n < width {
		bar += ">" + strings.Repeat(" ", width-n-1)
	}
	return fmt.Sprintf("\r%5.1f %% [%s]", part*100, bar)
}
