package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sheepdog/api"
)

// image is 3 MiB with data, holes and an odd end.
func image() []byte {
	data := make([]byte, 3<<20+512)
	rng := rand.New(rand.NewPCG(7, 7))
	for _, r := range []run{{0, 100}, {1 << 20, 1<<20 + 70000}, {3 << 20, 3<<20 + 512}} {
		for i := r.start; i < r.end; i++ {
			data[i] = byte(rng.Uint32()) | 1
		}
	}
	return data
}

func TestDataRuns(t *testing.T) {
	if got := fmt.Sprint(dataRuns(image())); got != "[{0 65536} {1048576 1179648} {3145728 3146240}]" {
		t.Errorf("runs %s", got)
	}
	if got := dataRuns(make([]byte, grain*3+1)); got != nil {
		t.Errorf("runs of zeros: %v", got)
	}
}

func TestImportStdin(t *testing.T) {
	f := newFixture(t, 1)
	data := image()
	if _, talk, code := f.run(t, string(data), "vdi", "import", "-", "pool/v", "--size", fmt.Sprint(len(data))); code != 0 || talk != "" {
		t.Fatalf("exit %d, %q", code, talk)
	}
	if !bytes.Equal(f.backend.Data("pool/v", ""), data) {
		t.Error("the VDI is not the image")
	}
	if _, talk, code := f.run(t, string(data), "vdi", "import", "-", "w"); code != 1 || !strings.Contains(talk, "--size") {
		t.Errorf("no size: exit %d, %q", code, talk)
	}
	if _, talk, code := f.run(t, string(data), "vdi", "import", "-", "w", "--size", "1M"); code != 1 || !strings.Contains(talk, "more than 1048576 bytes") {
		t.Errorf("too long: exit %d, %q", code, talk)
	}
	if f.backend.Data("w", "") != nil {
		t.Error("a half-imported VDI is left")
	}
	// A name that no VDI may have is refused before anything is read.
	creates := len(f.backend.Creates())
	for _, name := range []string{"a/b/c", "/a", "a/"} {
		if _, talk, code := f.run(t, string(data), "vdi", "import", "-", name, "--size", "4M"); code != 1 || !strings.Contains(talk, "neither VOLUME nor POOL/VOLUME") {
			t.Errorf("%s: exit %d, %q", name, code, talk)
		}
	}
	if len(f.backend.Creates()) != creates {
		t.Error("a VDI was made for a name that is refused")
	}
}

// A pipe that ended early, because what wrote to it had failed, made a VDI of half an
// image, without a word.
func TestImportOfAPipeThatEndsEarlyFails(t *testing.T) {
	f := newFixture(t, 1)
	data := image()
	size := fmt.Sprint(2 * len(data))
	if _, talk, code := f.run(t, string(data), "vdi", "import", "-", "v", "--size", size); code != 1 ||
		!strings.Contains(talk, fmt.Sprintf("after %d of %s bytes", len(data), size)) || !strings.Contains(talk, "--pad") {
		t.Errorf("exit %d, %q", code, talk)
	}
	if vdis, err := f.backend.VDIs(t.Context(), &api.VDIQuery{}); err != nil || len(vdis) != 0 {
		t.Errorf("left: %+v, %v", vdis, err)
	}
	f.must(t, string(data), "vdi", "import", "-", "v", "--size", size, "--pad")
	if got := f.backend.Data("v", ""); len(got) != 2*len(data) || !bytes.HasPrefix(got, data) {
		t.Errorf("padded: %d bytes", len(got))
	}
	if _, talk, code := f.run(t, "", "vdi", "import", "file", "w", "--pad"); code != 1 || !strings.Contains(talk, "--pad is for stdin") {
		t.Errorf("of a file: exit %d, %q", code, talk)
	}
	// A file that is redirected is as long as it is.
	path := filepath.Join(f.dir, "raw")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d := &dog{stdin: file, stdout: io.Discard, stderr: io.Discard, getenv: func(k string) string { return f.env[k] }}
	if code := d.run(t.Context(), []string{"vdi", "import", "-", "w", "--size", size}); code != 0 || len(f.backend.Data("w", "")) != 2*len(data) {
		t.Errorf("a file by stdin: exit %d", code)
	}
}

// TestInterruptedImport: an interrupt is heard although stdin is silent, and
// what was made is removed.
func TestInterruptedImport(t *testing.T) {
	f := newFixture(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	var talk bytes.Buffer
	d := &dog{stdin: r, stdout: io.Discard, stderr: &talk, getenv: func(k string) string { return f.env[k] }}
	done := make(chan int)
	go func() { done <- d.run(ctx, []string{"vdi", "import", "-", "half", "--size", "16M"}) }()
	if _, err := w.Write(bytes.Repeat([]byte{1}, chunk)); err != nil {
		t.Fatal(err)
	}
	// The second chunk has begun, so the VDI exists and the first was read.
	if _, err := w.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if code := <-done; code != 1 || !strings.Contains(talk.String(), "interrupted") {
		t.Errorf("exit %d, %q", code, talk.String())
	}
	if len(f.backend.Creates()) != 1 || f.backend.Data("half", "") != nil {
		t.Error("a half-imported VDI is left")
	}
}

// importing begins an import of 16 MiB that has read its first chunk and waits for the
// next one.
func importing(t *testing.T, f *fixture, name string) (rest *io.PipeWriter, end func() (code int, talk string)) {
	t.Helper()
	r, w := io.Pipe()
	var talk bytes.Buffer
	d := &dog{stdin: r, stdout: io.Discard, stderr: &talk, getenv: func(k string) string { return f.env[k] }}
	done := make(chan int, 1)
	go func() { done <- d.run(t.Context(), []string{"vdi", "import", "-", name, "--size", "16M", "--pad"}) }()
	for _, b := range [][]byte{bytes.Repeat([]byte{1}, chunk), {1}} {
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	return w, func() (int, string) {
		w.Close()
		return <-done, talk.String()
	}
}

// A dog that was killed left a VDI that looked like the image.
func TestVDIHasItsNameOnceItIsFilled(t *testing.T) {
	f := newFixture(t, 1)
	_, end := importing(t, f, "v")
	if f.backend.Data("v", "") != nil {
		t.Error("a VDI that is not filled yet has its name")
	}
	if code, talk := end(); code != 0 {
		t.Fatalf("exit %d, %q", code, talk)
	}
	if data := f.backend.Data("v", ""); len(data) != 16<<20 || data[chunk] != 1 {
		t.Errorf("%d bytes", len(data))
	}
	f.must(t, "", "vdi", "snapshot", "-s", "s", "v")
	dir := filepath.Join(f.dir, "store")
	f.must(t, "", "vdi", "backup", "-s", "s", "--dir", dir, "v")
	f.must(t, "", "vdi", "restore", "-s", "s", "--dir", dir, "--from", "v", "w")
	creates := f.backend.Creates()
	if name := creates[len(creates)-1].Name; !strings.HasPrefix(name, ".unfinished/w-") || f.backend.Data("w", "") == nil {
		t.Errorf("the restored VDI was %q first", name)
	}
	// Of a name that has snapshots it is filled under its name.
	f.must(t, "", "vdi", "delete", "v")
	f.must(t, "", "vdi", "restore", "-s", "s", "--dir", dir, "v")
	if f.backend.Data("v", "") == nil {
		t.Error("a VDI with snapshots was not restored")
	}
}

// An import wrote to a VDI of its name that somebody else had made meanwhile, and
// deleted it when it failed.
func TestImportLeavesAVDIAloneThatGotItsName(t *testing.T) {
	f := newFixture(t, 1)
	rest, end := importing(t, f, "v")
	f.must(t, "", "vdi", "delete", "--if-exists", "v")
	f.must(t, "", "vdi", "create", "v", "16M")
	f.must(t, "another", "vdi", "write", "v")
	if _, err := rest.Write(bytes.Repeat([]byte{1}, 2*chunk)); err != nil {
		t.Fatal(err)
	}
	if code, talk := end(); code != 1 || !strings.Contains(talk, `VDI "v" exists`) {
		t.Errorf("exit %d, %q", code, talk)
	}
	if data := f.backend.Data("v", ""); !bytes.HasPrefix(data, []byte("another")) || data[chunk] != 0 {
		t.Errorf("the other VDI has %d bytes, %.10q", len(data), data)
	}
	if vdis, err := f.backend.VDIs(t.Context(), &api.VDIQuery{}); err != nil || len(vdis) != 1 {
		t.Errorf("left: %+v, %v", vdis, err)
	}
}

// What was left of an import that failed went into the trash, and could be restored.
func TestFailedImportIsNotInTheTrash(t *testing.T) {
	f := newFixture(t, 1)
	f.must(t, "", "vdi", "trash", "enable", "--keep", "7d")
	if _, _, code := f.run(t, "too long", "vdi", "import", "-", "v", "--size", "4"); code != 1 {
		t.Fatal(code)
	}
	if out := f.must(t, "", "vdi", "trash", "list", "-r"); out != "" {
		t.Errorf("in the trash: %q", out)
	}
}

// serveNBD is an NBD server for one export with a backing file.
func serveNBD(t *testing.T, name string, size int) (socket, file string) {
	t.Helper()
	for _, tool := range []string{"qemu-img", "qemu-nbd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir, err := os.MkdirTemp("", "dog") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, file = filepath.Join(dir, "a,b"), filepath.Join(dir, "disk")
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-nbd", "-f", "raw", "-x", name, "-k", socket, "-t", "-e", "8", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for { // until the server listens; go test ends a hopeless wait
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return socket, file
		}
	}
}

func TestImportThroughQEMU(t *testing.T) {
	f := newFixture(t, 1)
	data := image()
	socket, disk := serveNBD(t, api.UnfinishedName("pool/a,b c", day), len(data))
	f.backend.NBD.Unix = socket
	raw, qcow := filepath.Join(f.dir, "raw:img"), filepath.Join(f.dir, "img.qcow2")
	if err := os.WriteFile(raw, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, args := range [][]string{{raw, "-f", "raw"}, {qcow}} {
		if err := os.WriteFile(disk, make([]byte, len(data)), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"vdi", "import", "-v"}, append(args, "pool/a,b c")...)
		out, talk, code := f.run(t, "", args...)
		if code != 0 || !strings.HasPrefix(out, "VDI ID of newly created VDI: ") || talk != "" {
			t.Fatalf("%v: exit %d, %q, %q", args, code, out, talk)
		}
		if got, err := os.ReadFile(disk); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%v: the disk is not the image (%v)", args, err)
		}
		creates := f.backend.Creates()
		if c := creates[len(creates)-1]; c.SizeBytes != uint64(len(data)) {
			t.Errorf("%v: size %d", args, c.SizeBytes)
		}
		f.run(t, "", "vdi", "delete", "pool/a,b c")
	}
	// The server knows no such export: the VDI that was made is removed again.
	_, talk, code := f.run(t, "", "vdi", "import", qcow, "other")
	if code != 1 || !strings.HasPrefix(talk, "Failed to import DIR/img.qcow2 as VDI other: ") || f.backend.Data("other", "") != nil {
		t.Errorf("unknown export: exit %d, %q", code, talk)
	}
	if _, talk, code := f.run(t, "", "vdi", "import", filepath.Join(f.dir, "nosuch"), "other"); code != 1 || !strings.Contains(talk, "No such file") {
		t.Errorf("no file: exit %d, %q", code, talk)
	}
}

func TestImportWithoutQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	f := newFixture(t, 1)
	_, talk, code := f.run(t, "", "vdi", "import", "x.img", "v")
	if code != 1 || !strings.Contains(talk, "qemu-img is not installed") || len(f.backend.Creates()) != 0 {
		t.Errorf("exit %d, %q", code, talk)
	}
}

func TestNBDTarget(t *testing.T) {
	for _, tt := range []struct {
		nbd           api.NBDEndpoints
		address, want string
	}{
		{api.NBDEndpoints{TCP: "127.0.0.1:10809"}, "127.0.0.1", "driver=nbd,export=v,,w,server.type=inet,server.host=127.0.0.1,server.port=10809"},
		{api.NBDEndpoints{TCP: "[::]:10810"}, "10.0.0.1", "driver=nbd,export=v,,w,server.type=inet,server.host=10.0.0.1,server.port=10810"},
		{api.NBDEndpoints{TCP: "10.0.0.2:1", Unix: "/nosuch"}, "localhost", "driver=nbd,export=v,,w,server.type=inet,server.host=10.0.0.2,server.port=1"},
		{api.NBDEndpoints{TCP: "127.0.0.1:10809"}, "10.0.0.1", ""},
		{api.NBDEndpoints{}, "127.0.0.1", ""},
		{api.NBDEndpoints{TCP: "nonsense"}, "127.0.0.1", ""},
	} {
		got, err := nbdTarget(&api.Status{NBD: tt.nbd}, tt.address, "v,w")
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%+v at %s: %q, %v", tt.nbd, tt.address, got, err)
		}
	}
}
