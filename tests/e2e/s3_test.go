package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// serveS3 runs versitygw, which make builds from tests/s3, on a directory with
// one bucket, and puts what dog needs for it into the environment.
func (w *world) serveS3(t *testing.T, bucket string) (dir string) {
	t.Helper()
	program := filepath.Join(w.Bin, "versitygw")
	if _, err := os.Stat(program); err != nil {
		t.Skip("SKIPPED: there is no bin/versitygw; make e2e builds it")
	}
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lab.FreePort(t)))
	var out bytes.Buffer
	cmd := exec.Command(program, "--access", "tester", "--secret", "not a secret", "--port", addr, "posix", dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("versitygw said:\n%s", lab.Tail(out.Bytes()))
		}
	})
	w.Eventually(10*time.Second, "the S3 server listens", func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
	t.Setenv("AWS_ACCESS_KEY_ID", "tester")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not a secret")
	t.Setenv("AWS_ENDPOINT_URL", "http://"+addr)
	return dir
}

// TestBackupToS3: full and incremental backups go to a bucket of a real server,
// the VDI is deleted, and comes back byte by byte; what another cluster has
// changes only where it differs; a byte that rots in the bucket is found.
func TestBackupToS3(t *testing.T) {
	w := start(t, 2)
	dir := w.serveS3(t, "backups")
	w.Format(2)
	one := noise(11, 9<<20)
	two := bytes.Clone(one)
	copy(two[5_000_000:], noise(12, 100_000))
	const store = "s3://backups/cluster one/ä"
	w.Dog("vdi", "create", "v", strconv.Itoa(len(one)))
	w.dogWith(one, "vdi", "write", "v")
	w.Dog("vdi", "snapshot", "-s", "one", "v")
	w.Dog("vdi", "backup", "-s", "one", "--dir", store, "v")
	w.dogWith(two[5_000_000:5_100_000], "vdi", "write", "v", "5000000")
	w.Dog("vdi", "snapshot", "-s", "two", "v")
	before := sizeOf(t, dir)
	w.Dog("vdi", "backup", "-s", "two", "--dir", store, "v")
	if grown := sizeOf(t, dir) - before; grown > 9<<20 {
		t.Errorf("100,000 changed bytes make the bucket %d bytes larger", grown)
	}
	w.Dog("vdi", "backup", "--verify", "--dir", store, "v")
	w.Dog("cluster", "snapshot", "save", "night", store)
	if out := w.Dog("cluster", "snapshot", "list", store); !strings.Contains(out, "night") {
		t.Errorf("%q", out)
	}

	w.Dog("cluster", "format", "-c", "2", "--yes")
	w.Dog("cluster", "snapshot", "load", "--yes", "night", store)
	for tag, want := range map[string][]byte{"one": one, "two": two} {
		if w.Dog("vdi", "read", "-s", tag, "v") != string(want) {
			t.Errorf("snapshot %s has other bytes", tag)
		}
	}
	w.Dog("vdi", "restore", "-s", "one", "--dir", store, "--from", "v", "again")
	if w.Dog("vdi", "read", "again") != string(one) {
		t.Error("the restored VDI has other bytes")
	}

	rot(t, dir)
	if _, errText, code := w.DogAt(w.First(), "vdi", "backup", "--verify", "--dir", store, "v"); code != 1 || !strings.Contains(errText, "corrupted") {
		t.Errorf("a flipped byte: exit %d, %s", code, errText)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	if _, errText, code := w.DogAt(w.First(), "cluster", "snapshot", "list", store); code == 0 || errText == "" {
		t.Errorf("a wrong key: exit %d, %s", code, errText)
	}
	w.Checked()
}

// sizeOf is how many bytes the files below a directory have.
func sizeOf(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// rot flips a bit in the middle of the largest file below a directory.
func rot(t *testing.T, dir string) {
	t.Helper()
	var largest string
	var size int64
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err != nil || largest == "" {
		t.Fatal(fmt.Errorf("no file below %s: %w", dir, err))
	}
	b, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(largest, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
