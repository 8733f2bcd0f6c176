package server

import (
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"sheepdog/libvirtpool/rpc"
)

// peer is who is at the other end, as the kernel says.
type peer struct {
	pid      int32
	uid, gid uint32
}

// peerOf asks the kernel for the client's identity.
func peerOf(conn net.Conn) (peer, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}, fmt.Errorf("client at %s is not on a unix socket", conn.RemoteAddr())
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{}, fmt.Errorf("identity of the client: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = credErr
	}
	if err != nil {
		return peer{}, fmt.Errorf("identity of the client: %w", err)
	}
	return peer{pid: cred.Pid, uid: cred.Uid, gid: cred.Gid}, nil
}

// LogValue is what logs show.
func (p peer) LogValue() slog.Value {
	return slog.GroupValue(slog.Int("pid", int(p.pid)), slog.Uint64("uid", uint64(p.uid)))
}

// identity is the client as libvirt's typed parameters, so that access control in
// libvirtd sees the client and not this process. Names that the system does not
// know are left out.
func (p peer) identity() []rpc.Param {
	out := []rpc.Param{
		{Field: "unix-user-id", Value: uint64(p.uid)},
		{Field: "unix-group-id", Value: uint64(p.gid)},
		{Field: "process-id", Value: int64(p.pid)},
	}
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil {
		out = append(out, rpc.Param{Field: "user-name", Value: u.Username})
	}
	if g, err := user.LookupGroupId(strconv.FormatUint(uint64(p.gid), 10)); err == nil {
		out = append(out, rpc.Param{Field: "group-name", Value: g.Name})
	}
	return out
}
