// Package handover keeps the connections of NBD clients over a restart of this
// program: they go to the descriptor store that package daemon found, each with a
// file of what the next process must know of it, and come back from there.
//
// Main functions: Keep, Adopt.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"sheepdog/cmd/sheep/internal/daemon"
	"sheepdog/nbd"
)

// prefix begins the names under which connections are stored; a number follows.
const prefix = "nbd-"

// maxState bounds the file that comes with a connection, in bytes.
const maxState = 4 << 20

// Keep stores connections. Those that cannot be are closed by the caller as any
// others: what it does not store is lost.
func Keep(s *daemon.Store, transfers []nbd.Transfer) error {
	var errs []error
	for i, t := range transfers {
		if err := keep(s, fmt.Sprintf("%s%d", prefix, i), t); err != nil {
			errs = append(errs, fmt.Errorf("keep the connection to %s: %w", t.State.Export, err))
		}
	}
	return errors.Join(append(errs, s.Flush())...)
}

func keep(s *daemon.Store, name string, t nbd.Transfer) error {
	filer, ok := t.Conn.(interface{ File() (*os.File, error) })
	if !ok {
		return fmt.Errorf("it has no descriptor")
	}
	conn, err := filer.File()
	if err != nil {
		return err
	}
	defer conn.Close()
	state, err := stateFile(t.State)
	if err != nil {
		return err
	}
	defer state.Close()
	return s.Put(name, conn, state)
}

// stateFile is a file in memory.
func stateFile(s nbd.TransferState) (*os.File, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("nbd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nbd")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Adopt makes connections of what was stored, and closes the descriptors. What it
// cannot use it tells of: the clients of those connections are cut off.
func Adopt(kept []daemon.Kept, log *slog.Logger) (out []nbd.Transfer) {
	for _, k := range kept {
		if strings.HasPrefix(k.Name, prefix) {
			t, err := adopt(k.Files)
			if err != nil {
				log.Error("a connection of an NBD client was lost", "name", k.Name, "err", err)
			} else {
				out = append(out, t)
			}
		}
		for _, f := range k.Files {
			f.Close()
		}
	}
	return out
}

func adopt(files []*os.File) (t nbd.Transfer, err error) {
	for _, f := range files {
		var info os.FileInfo
		if info, err = f.Stat(); err != nil {
			break
		}
		switch {
		case info.Mode()&os.ModeSocket != 0 && t.Conn == nil:
			t.Conn, err = net.FileConn(f)
		case info.Mode().IsRegular():
			err = readState(f, &t.State)
		default:
			err = fmt.Errorf("descriptor of mode %v", info.Mode())
		}
		if err != nil {
			break
		}
	}
	if err == nil && (t.Conn == nil || t.State.Export == "") {
		err = errors.New("not a connection and its state")
	}
	if err != nil && t.Conn != nil {
		t.Conn.Close()
	}
	return t, err
}

func readState(f *os.File, s *nbd.TransferState) error {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxState))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, s)
}
