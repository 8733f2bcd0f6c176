//go:build amd64 || arm64

package prefetch

import "unsafe"

// Line has the cache line at p brought near. It changes nothing.
//
//go:noescape
func Line(p unsafe.Pointer)
