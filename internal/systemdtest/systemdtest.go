// Package systemdtest is systemd as far as it keeps descriptors, for tests.
//
// Main type: Systemd.
package systemdtest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Systemd listens as systemd does for a service.
type Systemd struct {
	Socket string

	mu    sync.Mutex
	files map[string][]*os.File
	ready bool
}

// Listen starts one that ends with the test.
func Listen(t *testing.T) *Systemd {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // short: it is a socket's path
	if err != nil {
		t.Fatal(err)
	}
	s := &Systemd{Socket: filepath.Join(dir, "notify"), files: map[string][]*os.File{}}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.Socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for s.receive(l) {
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		s.Take()
		os.RemoveAll(dir)
	})
	return s
}

// receive takes one message; false when the socket is closed.
func (s *Systemd) receive(l *net.UnixConn) bool {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	n, on, _, _, err := l.ReadMsgUnix(b, oob)
	if err != nil {
		return false
	}
	var files []*os.File
	if list, err := unix.ParseSocketControlMessage(oob[:on]); err == nil {
		for _, m := range list {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "stored"))
			}
		}
	}
	s.handle(string(b[:n]), files)
	return true
}

func (s *Systemd) handle(text string, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, name, _ := strings.Cut(text, "FDNAME=")
	switch {
	case strings.HasPrefix(text, "FDSTORE=1\n"):
		// As systemd passes them on: the last one first.
		for _, f := range files {
			s.files[name] = append([]*os.File{f}, s.files[name]...)
		}
		return
	case strings.HasPrefix(text, "FDSTOREREMOVE=1\n"):
		files = append(files, s.files[name]...)
		delete(s.files, name)
	case text == "READY=1":
		s.ready = true
	}
	for _, f := range files { // also the pipe of a barrier
		f.Close()
	}
}

// Ready reports whether a service said that it is.
func (s *Systemd) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// Passed is what a service that starts now is given: copies of the descriptors
// and their names. The caller closes them.
func (s *Systemd) Passed() (files []*os.File, names []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, list := range s.files {
		for _, f := range list {
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return nil, nil, err
			}
			files, names = append(files, os.NewFile(uintptr(fd), name)), append(names, name)
		}
	}
	return files, names, nil
}

// Names counts the descriptors by name.
func (s *Systemd) Names() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for name, list := range s.files {
		out[name] = len(list)
	}
	return out
}

// Take empties the store and closes what was in it, as when a service is stopped
// for good.
func (s *Systemd) Take() map[string]int {
	names := s.Names()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, list := range s.files {
		for _, f := range list {
			f.Close()
		}
		delete(s.files, name)
	}
	return names
}
