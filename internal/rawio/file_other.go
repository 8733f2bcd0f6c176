//go:build !linux || !(amd64 || arm64) || race

package rawio

// TryReadAt has nothing at hand.
func TryReadAt(uintptr, []byte, int64) bool { return false }

// TryGatherAt has nothing at hand.
func TryGatherAt(uintptr, [][]byte, int64) bool { return false }
