package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors outlive this process in systemd's file descriptor store, by the
// protocol of sd_notify(3), and come back to the next one by that of
// sd_listen_fds(3). systemd keeps them over a restart of the service, and closes
// them when the service is stopped for good, or when its unit has no
// FileDescriptorStoreMax.

// Kept are the descriptors that a previous process stored under one name.
type Kept struct {
	Name  string
	Files []*os.File // in no order
}

// Store keeps descriptors for the next process; nil: nobody does.
type Store struct {
	Socket string // where systemd listens
}

// The first descriptor that systemd passes.
const firstPassed = 3

// maxPassed bounds what is taken, in descriptors.
const maxPassed = 1 << 16

// openStore finds systemd's store and takes what is in it.
func openStore() (*Store, []Kept, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	kept, err := passed()
	if path == "" || err != nil {
		return nil, kept, err
	}
	s := &Store{Socket: path}
	for _, k := range kept {
		// The store has copies: the connections would never end.
		if err := s.send("FDSTOREREMOVE=1\nFDNAME=" + k.Name); err != nil {
			return nil, kept, err
		}
	}
	return s, kept, nil
}

// passed takes the descriptors that were passed to this process. The variables do
// not reach children.
func passed() ([]Kept, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxPassed {
		return nil, fmt.Errorf("LISTEN_FDS=%q: want the number of descriptors that systemd passes", count)
	}
	list := strings.Split(names, ":")
	var out []Kept
	at := map[string]int{}
	for i := range n {
		unix.CloseOnExec(firstPassed + i)
		name := ""
		if i < len(list) {
			name = list[i]
		}
		k, ok := at[name]
		if !ok {
			k = len(out)
			at[name] = k
			out = append(out, Kept{Name: name})
		}
		out[k].Files = append(out[k].Files, os.NewFile(uintptr(firstPassed+i), name))
	}
	return out, nil
}

// Put stores copies of descriptors under a name.
func (s *Store) Put(name string, files ...*os.File) error {
	return s.send("FDSTORE=1\nFDNAME="+name, files...)
}

// barrierTimeout bounds the wait for systemd.
const barrierTimeout = 5 * time.Second

// Flush returns when systemd has taken what was put before: of a process that is
// gone it takes nothing.
func (s *Store) Flush() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe to systemd: %w", err)
	}
	defer r.Close()
	err = s.send("BARRIER=1", w)
	w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierTimeout)); err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("systemd has not taken the descriptors within %v", barrierTimeout)
	}
	return nil // closed: it has
}

// send sends one message with descriptors.
func (s *Store) send(text string, files ...*os.File) error {
	// Not connected: package net sends descriptors to an address only.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix([]byte(text), rights, &net.UnixAddr{Name: s.Socket, Net: "unixgram"}); err != nil {
		return fmt.Errorf("tell systemd %q: %w", text, err)
	}
	return nil
}
