package daemon

import (
	"fmt"
	"strings"
)

// minJournal is the smallest journal that the original took, in bytes.
const minJournal = 64 << 20

// checkJournal refuses what the original refused of -j size=S[,dir=D][,skip], so
// that a mistake in a script shows here as it did there. The option has no other
// effect: the log of the store is always on.
func checkJournal(text string) error {
	size := ""
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch {
		case key == "size" && value != "":
			size = value
		case key == "dir" && value != "", part == "skip":
		default:
			return fmt.Errorf("Invalid journal option '%s': want size=SIZE[,dir=DIR][,skip]", part)
		}
	}
	if size == "" {
		return fmt.Errorf("you must specify size for journal: -j size=SIZE[,dir=DIR][,skip]")
	}
	n, err := parseSize(size)
	switch {
	case err != nil:
		return fmt.Errorf("Invalid size '%s' (-j): want bytes, or a number with one of K, M, G, T", size)
	case n < minJournal:
		return fmt.Errorf("invalid size %s, must be bigger than 64(M)", size)
	}
	return nil
}
