package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfilesAreOnTheNodesSocket(t *testing.T) {
	n := &Node{cfg: Config{Meta: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	if err := n.serveProfiles(); err != nil {
		t.Fatal(err)
	}
	defer n.closeAll()
	socket := filepath.Join(n.cfg.Meta, "pprof.sock")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://sheep/debug/pprof/" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for path, want := range map[string]int{"profile?seconds=1": 200, "mutex?seconds=1": 200, "block?seconds=1": 200, "allocs": 200, "goroutine": 200,
		"mutex": 400, "mutex?seconds=0": 400, "block?seconds=100000": 400} {
		if code, body := get(path); code != want || len(body) == 0 {
			t.Errorf("%s: %d, %d bytes; want %d", path, code, len(body), want)
		}
	}
	n = &Node{cfg: Config{Meta: filepath.Join(n.cfg.Meta, strings.Repeat("long", 30))}, log: n.log}
	if err := n.serveProfiles(); err != nil || len(n.closers) != 0 {
		t.Errorf("a path too long for a socket: %v, %d closers", err, len(n.closers))
	}
}
