//go:build !fewpartitions

package sheepdog

// partitionBits says how many bits of a hash choose the partition.
const partitionBits = 16
