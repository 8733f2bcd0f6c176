//go:build !linux

package rawio

import "errors"

// WriteZeros is not supported here.
func WriteZeros(string, int64) error { return errors.ErrUnsupported }
