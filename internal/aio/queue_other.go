//go:build !linux || !(amd64 || arm64)

package aio

import (
	"errors"
	"syscall"
)

// Queue is never made here.
type Queue struct{}

// New fails: there are no asynchronous writes here that we know of.
func New(int) (*Queue, error) { return nil, errors.ErrUnsupported }

func (*Queue) Write(syscall.RawConn, []byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (*Queue) Close() error                                      { return nil }
