package e2e

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// TestPackage builds the .deb, unpacks it, and starts its programs as the
// service does: systemd hears that the node is ready, and SIGTERM ends it.
func TestPackage(t *testing.T) {
	lab.Need(t, "dpkg-deb")
	dir := t.TempDir()
	pack := packed(t, dir, "1.2.3")
	root := filepath.Join(dir, "root")
	lab.Tool(t, "dpkg-deb", "-x", pack, root)
	if out := lab.Tool(t, "dpkg-deb", "-f", pack, "Package", "Version"); out != "Package: sheepdog\nVersion: 1.2.3\n" {
		t.Errorf("%q", out)
	}
	for _, path := range []string{"usr/sbin/sheep", "usr/bin/dog", "lib/systemd/system/sheepdog.service", "usr/sbin/sheep-libvirt", "lib/systemd/system/sheep-libvirt.service", "etc/default/sheepdog", "var/lib/sheepdog",
		"usr/share/man/man8/dog.8.gz", "usr/share/man/man8/dog-vdi-create.8.gz", "usr/share/bash-completion/completions/dog"} {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
	runPackaged(t, root)
}

// TestPackageInstalls has dpkg install, upgrade, remove and purge the package on a
// copy of this machine's file system.
func TestPackageInstalls(t *testing.T) {
	lab.Need(t, "dpkg-deb", "dpkg", "unshare")
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: a file system of our own needs root")
	}
	dir := t.TempDir()
	try := exec.CommandContext(t.Context(), "../../packaging/try.sh", packed(t, dir, "1.2.3"), packed(t, dir, "1.2.4"))
	if out, err := try.CombinedOutput(); err != nil || !strings.Contains(string(out), "INSTALLS-OK") {
		t.Errorf("%v\n%s", err, out)
	}
}

// packed builds the .deb of a version in a directory.
func packed(t *testing.T, dir, version string) string {
	t.Helper()
	build := exec.CommandContext(t.Context(), "packaging/deb.sh", version, dir)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	packages, err := filepath.Glob(filepath.Join(dir, "sheepdog_"+version+"_*.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatal(packages, err)
	}
	return packages[0]
}

func runPackaged(t *testing.T, root string) {
	t.Helper()
	short, err := os.MkdirTemp("", "shp") // short: it holds unix sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	socket := filepath.Join(short, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(lab.FreePort(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sheep := exec.CommandContext(ctx, filepath.Join(root, "usr/sbin/sheep"), "-f", "-l", "level=info,dst=stdout", "-p", port,
		"-c", "local:"+filepath.Join(short, "local"), "--nbd", "none", filepath.Join(short, "meta"))
	sheep.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	var log bytes.Buffer
	sheep.Stdout, sheep.Stderr = &log, &log
	if err := sheep.Start(); err != nil {
		t.Fatal(err)
	}
	l.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 64)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("notified of %q, %v", b[:n], err)
	}
	out := lab.Tool(t, filepath.Join(root, "usr/bin/dog"), "node", "list", "-r", "-p", port)
	if !strings.HasPrefix(out, "0 127.0.0.1:"+port+" ") {
		t.Errorf("%q", out)
	}
	if err := sheep.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := sheep.Wait(); err != nil {
		t.Errorf("sheep ended with %v\n%s", err, log.String())
	}
}
