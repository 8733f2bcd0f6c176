package storage

import (
	"context"
	"errors"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
)

// failure gives an error of the cluster the code that clients expect. Errors that
// have one pass unchanged.
func failure(err error, doing string) error {
	var coded *rpc.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	code := rpc.CodeFailed
	for _, k := range []struct {
		err  error
		code rpc.Code
	}{
		{sheepdog.ErrNotFound, rpc.CodeNoVolume}, {sheepdog.ErrExists, rpc.CodeVolumeExists},
		{sheepdog.ErrInvalid, rpc.CodeInvalidArg}, {sheepdog.ErrBusy, rpc.CodeBusy},
		{context.DeadlineExceeded, rpc.CodeTimeout}, {context.Canceled, rpc.CodeAborted},
	} {
		if errors.Is(err, k.err) {
			code = k.code
			break
		}
	}
	return rpc.Errorf(code, "%s: %v", doing, err)
}

// unreachable reports whether err tells of a cluster that does not serve, rather
// than of a request that it refused.
func unreachable(err error) bool {
	for _, e := range []error{sheepdog.ErrUnreachable, sheepdog.ErrNoQuorum, sheepdog.ErrClosed, sheepdog.ErrNotFormatted} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
