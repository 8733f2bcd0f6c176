//go:build linux && (amd64 || arm64)

// Package aio writes to files past the host's memory, by Linux's own asynchronous I/O, so that
// no thread waits for the disk, and with it none of the Go scheduler's processors: only the
// goroutine that wants it written does. It is for files that were opened with O_DIRECT; what is
// written to others is written before the disk is waited for at all, by the caller's thread.
//
// Main type: Queue.
package aio

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Queue is writes on their way to disks. It is safe for concurrent use.
//
// The host rings a bell, a descriptor that the runtime's poller watches, whenever one has ended;
// one goroutine hears it, and wakes the writers.
type Queue struct {
	ctx   uintptr // the host's name of it
	bell  *os.File
	ring  syscall.RawConn // of bell
	slots []slot
	free  chan *slot
	heard sync.WaitGroup

	events [16]event
	rung   int // events that answered has found
}

// slot is one write.
type slot struct {
	queue *Queue
	block control
	data  []byte // kept alive until the host is done with it
	ended chan int64
	begin func(fd uintptr) // its method submit, made once
	errno syscall.Errno
}

// control is what the host is asked for, struct iocb of linux/aio_abi.h on hosts of little
// endian.
type control struct {
	number    uint64 // of the slot
	key       uint32
	flags     uint32
	op        uint16
	priority  int16
	fd        uint32
	buf       uint64
	n         uint64
	off       int64
	reserved  uint64
	ringFlags uint32
	bell      uint32
}

// event is what the host answers, struct io_event.
type event struct {
	number uint64
	object uint64
	result int64 // bytes, or less than 0 an error's number
	second int64
}

const (
	opWrite   = 1 // IOCB_CMD_PWRITE
	ringsBell = 1 // IOCB_FLAG_RESFD
)

// ErrFull is returned for a write that would have had to wait for others.
var ErrFull = errors.New("as many writes as may be are on their way to the disk")

// New makes a queue of up to so many writes at a time. It fails on a host that does not have or
// does not allow such I/O.
func New(depth int) (*Queue, error) {
	q := &Queue{slots: make([]slot, depth), free: make(chan *slot, depth)}
	if _, _, errno := syscall.Syscall(unix.SYS_IO_SETUP, uintptr(depth), uintptr(unsafe.Pointer(&q.ctx)), 0); errno != 0 {
		return nil, fmt.Errorf("set up asynchronous writes: %w", errno)
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		q.destroy()
		return nil, fmt.Errorf("make a bell for asynchronous writes: %w", err)
	}
	q.bell = os.NewFile(uintptr(fd), "aio")
	if q.ring, err = q.bell.SyscallConn(); err != nil {
		return nil, errors.Join(err, q.bell.Close(), q.destroy())
	}
	for i := range q.slots {
		s := &q.slots[i]
		s.queue, s.ended = q, make(chan int64, 1)
		s.block = control{number: uint64(i), op: opWrite, ringFlags: ringsBell, bell: uint32(fd)}
		s.begin = s.submit
		q.free <- s
	}
	q.heard.Go(q.listen)
	return q, nil
}

// Close ends the queue. Nothing may be on its way.
func (q *Queue) Close() error {
	err := q.bell.Close()
	q.heard.Wait()
	return errors.Join(err, q.destroy())
}

func (q *Queue) destroy() error {
	if _, _, errno := syscall.Syscall(unix.SYS_IO_DESTROY, q.ctx, 0, 0); errno != 0 {
		return fmt.Errorf("end asynchronous writes: %w", errno)
	}
	return nil
}

// Write writes p at off and tells how many bytes, which may be fewer than all without an error, as
// of the system call. Where p, off and the length of p begin and end is for the file to allow.
func (q *Queue) Write(f syscall.RawConn, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	var s *slot
	select {
	case s = <-q.free:
	default:
		return 0, ErrFull
	}
	defer func() { q.free <- s }()
	s.data = p
	s.block.buf, s.block.n, s.block.off = uint64(uintptr(unsafe.Pointer(&p[0]))), uint64(len(p)), off
	err := f.Control(s.begin)
	if err == nil && s.errno != 0 {
		err = s.errno
	}
	n := int64(0)
	if err == nil {
		if n = <-s.ended; n < 0 {
			n, err = 0, syscall.Errno(-n)
		}
	}
	s.data = nil
	return int(n), err
}

// submit hands the write to the host. That may wait, for the lock of the file or for room in the
// disk's queue, so that the scheduler is told of it.
func (s *slot) submit(fd uintptr) {
	s.block.fd = uint32(fd)
	all := [1]*control{&s.block}
	for {
		_, _, s.errno = syscall.Syscall(unix.SYS_IO_SUBMIT, s.queue.ctx, 1, uintptr(unsafe.Pointer(&all)))
		if s.errno != syscall.EINTR {
			return
		}
	}
}
