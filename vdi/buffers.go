package vdi

import (
	"sync"

	"sheepdog"
)

// Buffers of the read-modify-write path and block states, pooled by use: the
// common case is a request of a few blocks.
var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }}
	stateBuffers = sync.Pool{New: func() any { s := make([]sheepdog.BlockState, 0, 1024); return &s }}
)

func getBuffer(n int) []byte {
	if n > 64<<10 {
		return make([]byte, n)
	}
	return (*smallBuffers.Get().(*[]byte))[:n]
}

func putBuffer(b []byte) {
	if cap(b) == 64<<10 {
		b = b[:0]
		smallBuffers.Put(&b)
	}
}

func getStates(n int) []sheepdog.BlockState {
	if n > 1024 {
		return make([]sheepdog.BlockState, n)
	}
	return (*stateBuffers.Get().(*[]sheepdog.BlockState))[:n]
}

func putStates(s []sheepdog.BlockState) {
	if cap(s) == 1024 {
		s = s[:0]
		stateBuffers.Put(&s)
	}
}
