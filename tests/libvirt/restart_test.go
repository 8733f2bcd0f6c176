package libvirt

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sheepdog/internal/systemdtest"
	"sheepdog/tests/internal/lab"
)

// counting is a guest in a boot sector: it adds one to a number in memory, writes
// the number to block 1 of its disk (LBA 8) through the BIOS, waits 5 ms, and
// again. When the BIOS tells of an error it says E on the serial port.
func counting() []byte {
	code := []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0x8e, 0xd0, // mov ss, ax
		0xbc, 0x00, 0x7c, // mov sp, 0x7c00
		0x88, 0x16, 0x00, 0x06, // mov [0x600], dl         the disk we come from
		0x66, 0xc7, 0x06, 0x00, 0x80, 0, 0, 0, 0, // mov dword [0x8000], 0
		// again:
		0x66, 0xff, 0x06, 0x00, 0x80, // inc dword [0x8000]
		0xbe, 0x40, 0x7c, // mov si, packet
		0xb8, 0x00, 0x43, // mov ax, 0x4300      extended write
		0x8a, 0x16, 0x00, 0x06, // mov dl, [0x600]
		0xcd, 0x13, // int 0x13
		0x73, 0x06, // jnc wait
		0xb0, 'E', // mov al, 'E'
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee, // out dx, al
		// wait:
		0xb4, 0x86, // mov ah, 0x86
		0x31, 0xc9, // xor cx, cx
		0xba, 0x88, 0x13, // mov dx, 5000        microseconds
		0xcd, 0x15, // int 0x15
	}
	const again = 22
	code = append(code, 0xeb, byte(again-(len(code)+2))) // jmp again
	sector := make([]byte, 512)
	copy(sector, code)
	copy(sector[0x40:], []byte{16, 0, 1, 0, 0x00, 0x80, 0, 0, 8}) // one sector from 0:8000 to LBA 8
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

const countingText = `<domain type='qemu'><name>counting</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
<devices><disk type='volume' device='disk'><source pool='images' volume='counting'/><target dev='vda' bus='virtio'/></disk>
<serial type='file'><source path='%s'/></serial><memballoon model='none'/></devices></domain>`

// count is what the guest wrote last.
func (w *world) count() int {
	w.t.Helper()
	b := w.dog("vdi", "read", "images/counting", "4096", "4")
	return int(binary.LittleEndian.Uint32([]byte(b)))
}

// counts waits until the guest has written something new.
func (w *world) counts(c virsh) {
	w.t.Helper()
	before := w.count()
	lab.Eventually(w.t, time.Minute, "the guest writes", func() error {
		if now := w.count(); now <= before {
			return fmt.Errorf("the guest, %s, has written %d, as before", c.do("domstate", "--reason", "counting"), now)
		}
		return nil
	})
}

// service runs the first sheep as systemd does.
func (w *world) service(s *systemdtest.Systemd, name string) *exec.Cmd {
	w.t.Helper()
	files, names, err := s.Passed()
	if err != nil {
		w.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", `export LISTEN_PID=$$; exec "$0" "$@"`, filepath.Join(w.bin, "sheep")}, w.sheepArgs(0)...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.Socket, "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.ExtraFiles = files
	w.begin(name, cmd, log)
	for _, f := range files {
		f.Close()
	}
	return cmd
}

// A guest survives the restart of the sheep that serves its disk: unnoticed when
// systemd keeps the connection, paused and resumed when the sheep was killed.
func TestRestartUnderAGuest(t *testing.T) {
	need(t, "virsh", "libvirtd", "qemu-system-x86_64")
	w := prepare(t)
	systemd := systemdtest.Listen(t)
	gateway := w.service(systemd, "sheep0")
	for i := 1; i < len(w.ports); i++ {
		w.run(fmt.Sprintf("sheep%d", i), filepath.Join(w.bin, "sheep"), w.sheepArgs(i)...)
	}
	w.format()
	_, lv := w.libvirtd()
	c := virsh{t, "qemu+unix:///system?socket=" + w.serve("c", "--upstream", filepath.Join(lv, "run/libvirt-sock"))}
	serial := w.startCounting(c)
	w.counts(c)

	w.stop(gateway)
	if got := systemd.Names()["nbd-0"]; got != 2 {
		t.Fatalf("systemd keeps %v", systemd.Names())
	}
	before := w.count()
	began := time.Now()
	gateway = w.service(systemd, "sheep0-again")
	lab.Eventually(w.t, time.Minute, "the guest goes on by itself", func() error {
		if w.count() == before {
			return fmt.Errorf("it is %s", c.do("domstate", "--reason", "counting"))
		}
		return nil
	})
	t.Logf("the guest wrote again %v after the start of the new sheep", time.Since(began).Round(time.Millisecond))
	if out := c.do("domstate", "counting"); out != "running" {
		t.Errorf("after the restart it is %s", out)
	}
	if left := systemd.Names(); len(left) != 0 {
		t.Errorf("systemd still has %v, which would keep connections open", left)
	}

	began = time.Now()
	_ = gateway.Process.Signal(syscall.SIGKILL)
	_ = gateway.Wait()
	lab.Eventually(w.t, time.Minute, "the guest is paused", func() error {
		if out := c.do("domstate", "--reason", "counting"); !strings.Contains(out, "paused (I/O error)") {
			return fmt.Errorf("it is %s", out)
		}
		return nil
	})
	t.Logf("the guest was paused %v after the death of the sheep", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	w.service(systemd, "sheep0-third")
	lab.Eventually(w.t, time.Minute, "the guest can be resumed", func() error {
		if out, err := c.try("resume", "counting"); err != nil {
			return fmt.Errorf("%s", out)
		}
		before := w.count()
		for range 20 {
			if w.count() > before {
				return nil
			}
		}
		return fmt.Errorf("it is %s", c.do("domstate", "--reason", "counting"))
	})
	t.Logf("and went on %v after the start of the next", time.Since(began).Round(time.Millisecond))
	w.counts(c)
	w.quiet(serial)
}

// quiet wants the counting guest to have seen no error.
func (w *world) quiet(serial string) {
	w.t.Helper()
	if b, err := os.ReadFile(serial); err != nil || len(b) != 0 {
		w.t.Errorf("the guest saw errors: %q %v", b, err)
	}
}

// startCounting starts the guest and returns where its serial port goes.
func (w *world) startCounting(c virsh) (serial string) {
	w.t.Helper()
	c.do("pool-define-as", "images", "sheepdog", "--source-host", "localhost", "--source-name", "images")
	c.do("pool-start", "images")
	c.do("vol-create-as", "images", "counting", "1M")
	disk, xml := filepath.Join(w.dir, "counting.raw"), filepath.Join(w.dir, "counting.xml")
	serial = filepath.Join(w.dir, "counting.serial")
	for path, b := range map[string][]byte{disk: counting(), xml: fmt.Appendf(nil, countingText, serial)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	c.do("vol-upload", "--pool", "images", "counting", disk)
	c.do("define", xml)
	c.do("start", "counting")
	lab.Eventually(w.t, time.Minute, "the guest counts", func() error {
		if n := w.count(); n < 5 {
			return fmt.Errorf("it has written %d", n)
		}
		return nil
	})
	return serial
}
