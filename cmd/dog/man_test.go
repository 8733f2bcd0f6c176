package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestManPages: every command has a page that a formatter reads without a word.
func TestManPages(t *testing.T) {
	f := newFixture(t, 1)
	if _, talk, code := f.run(t, "", "man", "--dir", f.dir); code != 0 || talk != "" {
		t.Fatalf("exit %d, %q", code, talk)
	}
	pages, err := filepath.Glob(filepath.Join(f.dir, "*.8"))
	if err != nil || len(pages) < 50 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	b, err := os.ReadFile(filepath.Join(f.dir, "dog-node-recovery-set-throttle.8"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".TH DOG\\-NODE\\-RECOVERY\\-SET\\-THROTTLE 8", ".SH SYNOPSIS", "\\-p, \\-\\-port", ".BR dog\\-node\\-recovery (8)"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("page misses %q:\n%s", want, b)
		}
	}
	if _, err := exec.LookPath("groff"); err != nil {
		return // the text was looked at above
	}
	if out, err := exec.Command("groff", append([]string{"-man", "-Tutf8", "-ww", "-z"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

// TestWatch repeats until its time is over, which is no failure once something was
// shown. On a busy machine that takes longer than on others.
func TestWatch(t *testing.T) {
	f := newFixture(t, 1)
	for _, words := range [][]string{{"status", "-w"}, {"node", "stat", "-w"}, {"node", "stat", "-w", "-r"}, {"node", "stat", "-w", "-o", "json"}} {
		var out, talk string
		var code int
		for limit := 50 * time.Millisecond; out == "" && limit < time.Minute; limit *= 5 {
			out, talk, code = f.run(t, "", append(words, "--timeout", limit.String())...)
		}
		if code != 0 || talk != "" || out == "" {
			t.Errorf("%v: exit %d, %q, %q", words, code, out, talk)
		}
	}
}

// TestDoctor finds that the nodes of the fixture, but for one, are not there.
func TestDoctor(t *testing.T) {
	f := newFixture(t, 2)
	f.backend.NodeList[0].Addr = f.addr
	f.backend.NodeList[1].Addr = "127.0.0.1:1"
	out, talk, code := f.run(t, "", "doctor")
	for _, want := range []string{"ok    cluster", "ok    port      node ADDR answers", "BAD   port      node 127.0.0.1:1 does not answer", "ok    clock", "ok    versions"} {
		if !strings.Contains(out, want) {
			t.Errorf("misses %q:\n%s", want, out)
		}
	}
	if code != 1 || !strings.Contains(talk, "checks failed") {
		t.Errorf("exit %d, %q", code, talk)
	}
	if out, _, _ := f.run(t, "", "doctor", "-o", "json"); !strings.HasPrefix(out, "{\n  \"version\": 1,\n  \"checks\": [") {
		t.Errorf("%s", out)
	}
}
