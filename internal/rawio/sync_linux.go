//go:build linux && (amd64 || arm64) && !race

package rawio

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syncer makes files durable as fdatasync does, by the host's asynchronous I/O: no
// thread waits in the call, so that neither does a processor of the scheduler, and
// its monitor is not woken to look after it. One goroutine may use it at a time.
type Syncer struct {
	aio   uintptr // context of the host
	event *os.File
	rc    syscall.RawConn

	// Scratch, here because the host gets their addresses.
	request  iocb
	list     [1]*iocb
	result   ioEvent
	count    [8]byte
	receive  func(fd uintptr) bool
	received syscall.Errno
}

// iocb is struct iocb of linux/aio_abi.h on little-endian machines.
type iocb struct {
	data      uint64
	key       uint32
	rwFlags   int32
	opcode    uint16
	priority  int16
	fd        uint32
	buf       uint64
	bytes     uint64
	offset    int64
	reserved  uint64
	flags     uint32
	eventFile uint32
}

// ioEvent is struct io_event.
type ioEvent struct {
	data, object uint64
	result       int64
	result2      int64
}

const (
	opDataSync     = 3 // IOCB_CMD_FDSYNC
	flagEventFile  = 1 // IOCB_FLAG_RESFD
	requestsAtOnce = 1
)

// NewSyncer fails where the host has no asynchronous I/O, or no more of it.
func NewSyncer() (*Syncer, error) {
	s := &Syncer{}
	if _, _, errno := syscall.Syscall(syscall.SYS_IO_SETUP, requestsAtOnce, uintptr(unsafe.Pointer(&s.aio)), 0); errno != 0 {
		return nil, fmt.Errorf("set up asynchronous I/O: %w", errno)
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		s.destroy()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	s.event = os.NewFile(uintptr(fd), "eventfd")
	if s.rc, err = s.event.SyscallConn(); err != nil {
		s.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	s.receive = s.receiveOnce
	s.list[0] = &s.request
	s.request = iocb{opcode: opDataSync, flags: flagEventFile, eventFile: uint32(fd)}
	return s, nil
}

// Sync makes the data of the open file fd durable, and its size if that grew. done
// is false if the host does not take the request: then nothing has happened.
func (s *Syncer) Sync(fd uintptr) (done bool, err error) {
	s.request.fd = uint32(fd)
	n, _, errno := syscall.RawSyscall(syscall.SYS_IO_SUBMIT, s.aio, 1, uintptr(unsafe.Pointer(&s.list[0])))
	if errno != 0 || n != 1 {
		return false, nil
	}
	// The host signals the event file after the result is there.
	waited := s.rc.Read(s.receive)
	if waited == nil && s.received != 0 {
		waited = s.received
	}
	if waited != nil {
		return true, fmt.Errorf("wait for a sync: %w", waited)
	}
	n, _, errno = syscall.RawSyscall6(syscall.SYS_IO_GETEVENTS, s.aio, 1, 1, uintptr(unsafe.Pointer(&s.result)), 0, 0)
	switch {
	case errno != 0:
		return true, fmt.Errorf("result of a sync: %w", errno)
	case n != 1:
		return true, fmt.Errorf("result of a sync: %d events, want 1", n)
	case s.result.result < 0:
		return true, syscall.Errno(-s.result.result)
	}
	return true, nil
}

// receiveOnce takes the event, and asks to wait while there is none.
func (s *Syncer) receiveOnce(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&s.count[0])), uintptr(len(s.count)))
		if errno == syscall.EINTR {
			continue
		}
		if s.received = errno; errno == 0 && (int(n) != len(s.count) || binary.LittleEndian.Uint64(s.count[:]) != 1) {
			s.received = syscall.EIO
		}
		return errno != syscall.EAGAIN
	}
}

// Close gives the host's resources back. No Sync may be under way.
func (s *Syncer) Close() error {
	s.destroy()
	return s.event.Close()
}

func (s *Syncer) destroy() { syscall.Syscall(syscall.SYS_IO_DESTROY, s.aio, 0, 0) }
