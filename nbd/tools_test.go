package nbd

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool runs a real client, and skips the test if it is not installed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tryTool(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func tryTool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed: its conformance is NOT tested", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	// nbdsh needs the Python that the distribution's libnbd was built for.
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin:"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	r.Read(b)
	return b
}

// imageFile is a file with data, holes and data.
func imageFile(t *testing.T, size int) (string, []byte) {
	t.Helper()
	b := make([]byte, size)
	copy(b, randomBytes(size/4))
	copy(b[size/2:], randomBytes(size/8))
	path := filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b
}

func TestQemuImg(t *testing.T) {
	const size = 50 << 20
	dev := newMemDevice(size)
	g := newRig(t, dev)
	path, want := imageFile(t, size)
	tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", path, g.uri("disk"))
	if !bytes.Equal(dev.bytes(0, size), want) {
		t.Fatal("converted bytes differ")
	}
	if dev.flushes.Load() == 0 {
		t.Error("convert did not flush")
	}
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, g.uri("disk"))
	out := tool(t, "qemu-img", "map", "--output=json", "-f", "raw", g.uri("disk"))
	if !strings.Contains(out, `"zero": true, "data": false`) || !strings.Contains(out, `"zero": false, "data": true`) {
		t.Errorf("map shows no holes:\n%s", out)
	}
	if out := tool(t, "qemu-img", "info", g.uri("disk")); !strings.Contains(out, "50 MiB") {
		t.Errorf("info:\n%s", out)
	}
}

func TestQemuIO(t *testing.T) {
	dev := newMemDevice(64 << 20)
	g := newRig(t, dev)
	out := tool(t, "qemu-io", "-f", "raw", g.uri("disk"),
		"-c", "write -P 0xab 0 1M", "-c", "write -f -P 0xcd 511 4097", "-c", "read -P 0xab 64k 64k",
		"-c", "write -z 128k 64k", "-c", "read -P 0 128k 64k", "-c", "write -z -u 256k 64k",
		"-c", "discard 512k 64k", "-c", "read -P 0 512k 64k", "-c", "flush",
		"-c", "aio_write -P 1 4M 32M", "-c", "aio_read -P 0 40M 8M", "-c", "aio_flush",
		"-c", "read -P 1 4M 32M")
	if strings.Contains(out, "rror") || strings.Contains(out, "ailed") {
		t.Fatalf("qemu-io:\n%s", out)
	}
	if !bytes.Equal(dev.bytes(511, 4097), bytes.Repeat([]byte{0xcd}, 4097)) {
		t.Error("unaligned write is not there")
	}
	if dev.fua.Load() == 0 {
		t.Error("no FUA arrived")
	}
}

func TestNbdinfo(t *testing.T) {
	dev := newMemDevice(1 << 20)
	copy(dev.data, "data")
	g := newRig(t, dev)
	out := tool(t, "nbdinfo", g.uri("disk"))
	for _, want := range []string{
		"export-size: 1048576", "is_read_only: false", "can_cache: true", "can_df: true", "can_fast_zero: true",
		"can_flush: true", "can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true",
		"block_size_minimum: 1", "block_size_preferred: 4096", "block_size_maximum: 67108864",
		"base:allocation", "description: a disk in memory",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nbdinfo lacks %q:\n%s", want, out)
		}
	}
	if out := tool(t, "nbdinfo", "--list", g.uri("")); !strings.Contains(out, `export="disk"`) {
		t.Errorf("nbdinfo --list:\n%s", out)
	}
	out = tool(t, "nbdinfo", "--map", g.uri("disk"))
	if len(strings.Split(strings.TrimSpace(out), "\n")) != 2 || !strings.Contains(out, "hole,zero") {
		t.Errorf("nbdinfo --map:\n%s", out)
	}
	if out, err := tryTool(t, "nbdinfo", g.uri("nothing")); err == nil {
		t.Errorf("an unknown export was found:\n%s", out)
	} else if !strings.Contains(out, "no such export") && !strings.Contains(out, "not") {
		t.Errorf("unclear refusal: %s", out)
	}
}

func TestNbdcopy(t *testing.T) {
	const size = 50 << 20
	dev := newMemDevice(size)
	g := newRig(t, dev)
	path, want := imageFile(t, size)
	tool(t, "nbdcopy", "--connections=4", "--flush", path, g.uri("disk"))
	if !bytes.Equal(dev.bytes(0, size), want) {
		t.Fatal("copied bytes differ")
	}
	back := filepath.Join(t.TempDir(), "back.raw")
	if err := os.WriteFile(back, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "nbdcopy", "--connections=4", "--requests=64", g.uri("disk"), back)
	got, err := os.ReadFile(back)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("copied back bytes differ, err %v", err)
	}
}

// TestNbdsh drives what the other tools do not: many requests in flight from
// one script, DF, FAST_ZERO, block status with REQ_ONE, and errno.
func TestNbdsh(t *testing.T) {
	dev := newMemDevice(64 << 20)
	g := newRig(t, dev)
	out := tool(t, "nbdsh", "--base-allocation", "-u", g.uri("disk"), "-c", nbdshScript)
	if !strings.Contains(out, "all is well") {
		t.Errorf("nbdsh:\n%s", out)
	}
	if !bytes.Equal(dev.bytes(5<<20, 1<<20), bytes.Repeat([]byte{5}, 1<<20)) {
		t.Error("pipelined writes are not there")
	}
}

const nbdshScript = `
import errno
def fails(code, f, *args):
    try:
        f(*args)
    except nbd.Error as e:
        assert e.errno == errno.errorcode[code], (e.errno, code)
    else:
        raise AssertionError("no error, want %s" % errno.errorcode[code])
h.set_strict_mode(0)
size = h.get_size()
assert h.can_multi_conn() and h.can_df() and h.can_fast_zero()
bufs = [nbd.Buffer.from_bytearray(bytearray([i]) * (1 << 20)) for i in range(32)]
cookies = [h.aio_pwrite(b, i << 20) for i, b in enumerate(bufs)]
while h.aio_in_flight() > 0:
    h.poll(-1)
for c in cookies:
    assert h.aio_command_completed(c)
assert h.pread(1 << 20, 31 << 20, nbd.CMD_FLAG_DF) == bytearray([31]) * (1 << 20)
h.zero(1 << 20, 3 << 20, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(1 << 20, 3 << 20) == bytearray(1 << 20)
fails(errno.ENOTSUP, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
fails(errno.EINVAL, h.pread, 512, size)
fails(errno.ENOSPC, h.pwrite, bytearray(512), size)
fails(errno.ENOSPC, h.zero, 512, size)
fails(errno.EINVAL, h.trim, 512, size)
seen = []
h.block_status(size, 0, lambda ctx, off, entries, err: seen.append((ctx, entries)))
assert seen == [("base:allocation", [1 << 20, 3, 2 << 20, 0, 1 << 20, 3, 28 << 20, 0, 32 << 20, 3])], seen
one = []
h.block_status(size, 0, lambda ctx, off, entries, err: one.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert one == [1 << 20, 3], one
h.cache(size, 0)
h.flush()
h.shutdown()
print("all is well")
`
