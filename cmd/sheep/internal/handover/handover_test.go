package handover

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"sheepdog/cmd/sheep/internal/daemon"
	"sheepdog/internal/systemdtest"
	"sheepdog/nbd"
)

// pair is a connection as of a client, and its other end.
func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}

// kept is what the next process is given.
func kept(t *testing.T, s *systemdtest.Systemd) []daemon.Kept {
	t.Helper()
	files, names, err := s.Passed()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string][]*os.File{}
	for i, f := range files {
		byName[names[i]] = append(byName[names[i]], f)
	}
	var out []daemon.Kept
	for name, list := range byName {
		out = append(out, daemon.Kept{Name: name, Files: list})
	}
	return out
}

func TestConnectionsComeBack(t *testing.T) {
	systemd := systemdtest.Listen(t)
	store := &daemon.Store{Socket: systemd.Socket}
	want := map[string]net.Conn{}
	var transfers []nbd.Transfer
	for _, export := range []string{"a", "images/b"} {
		server, client := pair(t)
		transfers = append(transfers, nbd.Transfer{Conn: server, State: nbd.TransferState{Export: export, Structured: true, Unread: []byte(export)}})
		want[export] = client
	}
	if err := Keep(store, transfers); err != nil {
		t.Fatal(err)
	}
	for _, tr := range transfers {
		tr.Conn.Close()
	}
	back := Adopt(kept(t, systemd), slog.New(slog.DiscardHandler))
	systemd.Take()
	if len(back) != len(want) {
		t.Fatalf("%d connections", len(back))
	}
	for _, tr := range back {
		if s := tr.State; !s.Structured || s.Allocation || string(s.Unread) != s.Export {
			t.Errorf("%+v", s)
		}
		if _, err := tr.Conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		tr.Conn.Close()
		var got bytes.Buffer
		if _, err := got.ReadFrom(want[tr.State.Export]); err != nil || got.String() != "hello" {
			t.Errorf("%s: %q %v", tr.State.Export, got.String(), err)
		}
	}
}

// What is no connection of ours is closed, and does not keep others from coming
// back.
func TestStrangeDescriptorsAreDropped(t *testing.T) {
	file := func(text string) *os.File {
		f, err := os.CreateTemp(t.TempDir(), "f")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f
	}
	socket := func() *os.File {
		server, _ := pair(t)
		f, err := server.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	list := []daemon.Kept{
		{Name: "nbd-0", Files: []*os.File{file(`{"export":"a"}`)}},
		{Name: "nbd-1", Files: []*os.File{socket()}},
		{Name: "nbd-2", Files: []*os.File{socket(), file(`{`)}},
		{Name: "nbd-3", Files: []*os.File{pipe, file(`{"export":"a"}`)}},
		{Name: "nbd-4", Files: []*os.File{socket(), socket(), file(`{"export":"a"}`)}},
		{Name: "other", Files: []*os.File{socket(), file(`{"export":"a"}`)}},
		{Name: "nbd-5", Files: []*os.File{file(`{"export":"good"}`), socket()}},
	}
	back := Adopt(list, slog.New(slog.DiscardHandler))
	if len(back) != 1 || back[0].State.Export != "good" {
		t.Fatalf("%+v", back)
	}
	back[0].Conn.Close()
	for _, k := range list {
		for _, f := range k.Files {
			if f.Close() == nil {
				t.Errorf("a descriptor of %s is still open", k.Name)
			}
		}
	}
}
