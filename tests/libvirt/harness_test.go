// Package libvirt runs sheep-libvirt as users meet it: the real virsh,
// python3-libvirt, libvirtd and QEMU, at a cluster of three real sheep. It needs
// root, for a libvirtd of its own. `make build` makes the binaries first.
package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// world is a cluster, a libvirtd and what the tests start beside them.
type world struct {
	t     *testing.T
	dir   string
	bin   string
	ports []int // of the sheep
}

// start makes three sheep, formatted with three copies. The first one is the one
// that libvirt uses.
func start(t *testing.T) *world {
	t.Helper()
	w := prepare(t)
	for i := range w.ports {
		w.run(fmt.Sprintf("sheep%d", i), filepath.Join(w.bin, "sheep"), w.sheepArgs(i)...)
	}
	w.format()
	return w
}

// prepare chooses ports and a directory.
func prepare(t *testing.T) *world {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sheep", "dog", "sheep-libvirt"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("no binaries: %v; run make build first", err)
		}
	}
	dir, err := os.MkdirTemp("", "shl") // short: it holds unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // QEMU's user finds the NBD socket in it
		t.Fatal(err)
	}
	return &world{t: t, dir: dir, bin: bin, ports: freePorts(t, 3)}
}

func (w *world) sheepArgs(i int) []string {
	args := []string{"-f", "-c", "local:" + filepath.Join(w.dir, "local"), "-p", strconv.Itoa(w.ports[i]), "-z", strconv.Itoa(i), "--nbd", "none"}
	args = append(args, "--nbd-socket", filepath.Join(w.nbd(i), "nbd.sock"))
	if qemuUser() != "root" {
		args = append(args, "--nbd-group", "kvm")
	}
	return append(args, filepath.Join(w.dir, "s"+strconv.Itoa(i)))
}

// nbd is the directory of the NBD socket of a sheep.
func (w *world) nbd(i int) string { return w.mkdir("nbd" + strconv.Itoa(i)) }

// qemuUser is who QEMU runs as: as Debian's libvirt has it where that is possible.
func qemuUser() string {
	if _, err := user.Lookup("libvirt-qemu"); err == nil {
		if _, err := user.LookupGroup("kvm"); err == nil {
			return "libvirt-qemu"
		}
	}
	return "root"
}

func (w *world) format() {
	w.t.Helper()
	lab.Eventually(w.t, 30*time.Second, "three sheep see each other", func() error {
		out, err := w.dogTry("node", "list", "-r")
		if n := len(strings.Fields(out)); err != nil || strings.Count(strings.TrimSpace(out), "\n") != 2 {
			return fmt.Errorf("%d words: %v", n, err)
		}
		return nil
	})
	w.dog("cluster", "format", "--copies", "3")
}

// run starts a process that is ended with the test.
func (w *world) run(name, program string, args ...string) *exec.Cmd {
	w.t.Helper()
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	w.begin(name, cmd, log)
	return cmd
}

// begin starts a command that is ended with the test; its output goes to log.
func (w *world) begin(name string, cmd *exec.Cmd, log *os.File) {
	w.t.Helper()
	cmd.Stdout, cmd.Stderr = log, log
	err := cmd.Start()
	log.Close()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		w.stop(cmd)
		if w.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			w.t.Logf("log of %s:\n%s", name, b[max(0, len(b)-4000):])
		}
	})
}

// stop ends a process, hard if it does not end by itself.
func (w *world) stop(cmd *exec.Cmd) {
	if cmd.ProcessState != nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(15*time.Second, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	kill.Stop()
}

// serve starts a sheep-libvirt and returns its socket.
func (w *world) serve(name string, args ...string) (socket string) {
	w.t.Helper()
	socket = filepath.Join(w.dir, name+".sock")
	w.run(name, filepath.Join(w.bin, "sheep-libvirt"), append([]string{"--listen", socket, "--state", filepath.Join(w.dir, name),
		"--spool", w.dir, "--api", "127.0.0.1:" + strconv.Itoa(w.ports[0])}, args...)...)
	w.answers(socket)
	return socket
}

// libvirtd starts a libvirtd of its own and returns its process and directory.
func (w *world) libvirtd() (cmd *exec.Cmd, dir string) {
	w.t.Helper()
	return w.libvirtdAt("lv")
}

// libvirtdAt starts one in a directory of that name; host are more arguments of
// libvirtd.sh.
func (w *world) libvirtdAt(name string, host ...string) (cmd *exec.Cmd, dir string) {
	w.t.Helper()
	if os.Getuid() != 0 {
		w.t.Skip("SKIPPED: a libvirtd of our own needs root")
	}
	script, err := filepath.Abs("libvirtd.sh")
	if err != nil {
		w.t.Fatal(err)
	}
	dir = w.mkdir(name)
	w.t.Cleanup(func() {
		killMachines(dir) // machines outlive libvirtd
		if w.t.Failed() {
			w.showLogs(filepath.Join(dir, "log/qemu/*.log"), filepath.Join(dir, "log/libvirtd.log"))
		}
	})
	cmd = w.run("libvirtd-"+name, script, append([]string{dir, qemuUser()}, host...)...)
	w.answers(filepath.Join(dir, "run/libvirt-sock"))
	return cmd, dir
}

// showLogs logs the ends of files.
func (w *world) showLogs(patterns ...string) {
	for _, p := range patterns {
		files, _ := filepath.Glob(p)
		for _, f := range files {
			b, _ := os.ReadFile(f)
			w.t.Logf("%s:\n%s", f, b[max(0, len(b)-2000):])
		}
	}
}

// killMachines ends what is left of the domains of a libvirtd.
func killMachines(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "run/qemu/*.pid"))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (w *world) mkdir(name string) string {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func (w *world) answers(socket string) {
	w.t.Helper()
	lab.Eventually(w.t, 30*time.Second, socket+" answers", func() error {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

func (w *world) dogTry(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(w.bin, "dog"), append(args, "-p", strconv.Itoa(w.ports[1]))...).Output()
	return string(out), err
}

func (w *world) dog(args ...string) string {
	w.t.Helper()
	out, err := w.dogTry(args...)
	if err != nil {
		w.t.Fatalf("dog %v: %v", args, err)
	}
	return out
}

// virsh is the program at one URI.
type virsh struct {
	t   *testing.T
	uri string
}

// try runs a command and returns what it says, also when it fails.
func (c virsh) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", c.uri}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (c virsh) do(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused wants a command to fail with words in its error.
func (c virsh) refused(words string, args ...string) {
	c.t.Helper()
	if out, err := c.try(args...); err == nil || !strings.Contains(out, words) {
		c.t.Errorf("virsh %s: want an error with %q, got %v\n%s", strings.Join(args, " "), words, err, out)
	}
}

// need skips a test aloud when a tool is missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %s is not installed: apt-get install libvirt-clients libvirt-daemon-system python3-libvirt qemu-system-x86 qemu-utils", tool)
		}
	}
}

// needPython skips aloud without python3-libvirt.
func needPython(t *testing.T) {
	t.Helper()
	if err := exec.Command("/usr/bin/python3", "-c", "import libvirt").Run(); err != nil {
		t.Skip("SKIPPED: python3-libvirt is not installed")
	}
}

// python runs calls.py and logs its figures.
func python(t *testing.T, uris ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/bin/python3", append([]string{"calls.py"}, uris...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "CALLS-OK") {
		t.Fatalf("calls.py: %v\n%s", err, out)
	}
	t.Logf("\n%s", out)
}

func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			t.Fatal(errors.New("no TCP address"))
		}
		ports = append(ports, addr.Port)
	}
	return ports
}
