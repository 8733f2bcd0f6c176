package libvirt

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// file makes a file of n bytes with something in every block but some holes.
func (w *world) file(name string, n int) string {
	w.t.Helper()
	b := bytes.Repeat([]byte(name+" 0123456789abcdef\n"), n/(len(name)+18)+1)[:n]
	clear(b[n/3 : n/2])
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) same(a, b string, n int64) {
	w.t.Helper()
	if out, err := exec.Command("cmp", "-n", fmt.Sprint(n), a, b).CombinedOutput(); err != nil {
		w.t.Errorf("%s and %s differ: %s", a, b, out)
	}
}

// Storage alone: every verb of virsh, streams in both directions, qcow2, a second
// host, a restart.
func TestStorageAlone(t *testing.T) {
	need(t, "virsh", "qemu-img")
	w := start(t)
	first := virsh{t, "storage+unix:///system?socket=" + w.serve("a", "--listen-ro", filepath.Join(w.dir, "ro.sock"))}
	second := virsh{t, "storage+unix:///system?socket=" + w.serve("b")}
	reader := virsh{t, "storage+unix:///system?socket=" + filepath.Join(w.dir, "ro.sock")}

	first.do("pool-define-as", "images", "sheepdog", "--source-host", "localhost", "--source-name", "img")
	first.do("pool-start", "images")
	first.do("pool-autostart", "images")
	first.refused("already active", "pool-start", "images")
	lab.Eventually(w.t, 20*time.Second, "another host sees the pool", func() error {
		if out := second.do("pool-list", "--all"); !strings.Contains(out, "images") {
			return fmt.Errorf("only %q", out)
		}
		return nil
	})
	if out := first.do("pool-info", "--bytes", "images"); !strings.Contains(out, "running") || strings.Contains(out, "Capacity:       0") {
		t.Error(out)
	}
	first.do("vol-create-as", "images", "base", "8MiB")
	const n = 5_000_001
	raw := w.file("raw", n)
	first.do("vol-upload", "--pool", "images", "base", raw)
	first.do("vol-clone", "--pool", "images", "base", "copy")
	back := filepath.Join(w.dir, "back")
	for _, sparse := range []string{"--length=8388608", "--sparse"} {
		first.do("vol-download", "--pool", "images", "copy", back, sparse)
		w.same(raw, back, n)
	}
	first.do("vol-upload", "--pool", "images", "copy", "--offset", "1048576", "--sparse", raw)
	first.do("vol-download", "--pool", "images", "copy", back, "--offset", "1048576")
	w.same(raw, back, n)
	first.do("vol-download", "--pool", "images", "base", back)
	w.same(raw, back, n)

	qcow := filepath.Join(w.dir, "img.qcow2")
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, qcow).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	first.do("vol-create-as", "images", "fromqcow", "1MiB")
	first.do("vol-upload", "--pool", "images", "fromqcow", qcow)
	first.do("vol-download", "--pool", "images", "fromqcow", back)
	w.same(raw, back, n)

	first.do("vol-delete", "--pool", "images", "base")
	first.do("vol-resize", "--pool", "images", "copy", "16MiB")
	first.do("vol-wipe", "--pool", "images", "copy")
	first.refused("Storage volume not found", "vol-info", "--pool", "images", "base")
	if out := reader.do("vol-list", "images"); !strings.Contains(out, "img/copy") || strings.Contains(out, "base") {
		t.Error(out)
	}
	reader.refused("read only", "vol-delete", "--pool", "images", "copy")
	first.do("pool-destroy", "images")
	first.do("pool-undefine", "images")
	lab.Eventually(w.t, 20*time.Second, "another host sees that the pool is gone", func() error {
		if out := second.do("pool-list", "--all"); strings.Contains(out, "images") {
			return fmt.Errorf("still %q", out)
		}
		return nil
	})
	if out := w.dog("vdi", "list", "-r"); strings.Contains(out, "libvirt-clone") || strings.Contains(out, ".libvirt") {
		t.Errorf("left behind:\n%s", out)
	}
}

// The calls of a cloud manager's agent, at storage alone.
func TestManagersCalls(t *testing.T) {
	need(t, "virsh")
	needPython(t)
	w := start(t)
	python(t, "storage+unix:///system?socket="+w.serve("a"))
}

const domainText = `<domain type='qemu'><name>%s</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><disk type='%s' device='disk'><source %s/><target dev='vda' bus='virtio'/></disk><memballoon model='none'/></devices></domain>`

// In front of a libvirtd: both kinds of pools, domains on volumes, snapshots, and
// libvirtd restarted behind us.
func TestInFrontOfLibvirtd(t *testing.T) {
	need(t, "virsh", "libvirtd", "qemu-system-x86_64")
	w := start(t)
	daemon, lv := w.libvirtd()
	direct := virsh{t, "qemu+unix:///system?socket=" + filepath.Join(lv, "run/libvirt-sock")}
	c := virsh{t, "qemu+unix:///system?socket=" + w.serve("c", "--upstream", filepath.Join(lv, "run/libvirt-sock"))}

	c.do("pool-define-as", "dir", "dir", "--target", w.mkdir("pool"))
	c.do("pool-start", "dir")
	c.do("pool-define-as", "images", "sheepdog", "--source-host", "localhost", "--source-name", "images")
	c.do("pool-start", "images")
	c.refused("already", "pool-define-as", "dir", "sheepdog", "--source-host", "localhost", "--source-name", "x")
	if out := c.do("pool-list", "--all"); !strings.Contains(out, "dir") || !strings.Contains(out, "images") {
		t.Error(out)
	}
	if out := direct.do("pool-list", "--all"); strings.Contains(out, "images") {
		t.Errorf("libvirtd itself knows\n%s", out)
	}
	storage := virsh{t, strings.Replace(c.uri, "qemu+", "storage+", 1)} // as virtqemud asks a storage daemon
	if out := storage.do("pool-list", "--all"); !strings.Contains(out, "dir") || !strings.Contains(out, "images") {
		t.Error(out)
	}
	c.do("vol-create-as", "dir", "file", "1M")
	c.do("vol-delete", "--pool", "dir", "file")
	c.do("vol-create-as", "images", "base", "64M")
	w.domains(c, direct)
	w.copies(c)
	w.goAPI(c, direct, filepath.Join(lv, "run/libvirt-sock"))

	w.stop(daemon)
	if out, err := c.try("list"); err == nil {
		t.Errorf("without libvirtd there is\n%s", out)
	}
	w.run("libvirtd-again", "./libvirtd.sh", lv, qemuUser())
	lab.Eventually(w.t, 30*time.Second, "libvirtd is back", func() error { _, err := c.try("list"); return err })
	// QEMU's own answer comes after libvirtd has taken the machine back. A destroy
	// before that is done by libvirtd, and refused: "domain is not running".
	if out := c.do("qemu-monitor-command", "--hmp", "by-pool", "info status"); !strings.Contains(out, "running") {
		t.Errorf("after libvirtd's restart QEMU says %s", out)
	}
	through, straight := c.do("domstate", "--reason", "by-pool"), direct.do("domstate", "--reason", "by-pool")
	if !strings.HasPrefix(through, "running") || through != straight {
		t.Errorf("after libvirtd's restart by-pool is %s, directly %s", through, straight)
	}
	c.do("destroy", "by-pool")
}

// A manager's calls in front of a libvirtd, with machines, and the figures of
// docs/libvirt.md.
func TestFigures(t *testing.T) {
	need(t, "virsh", "libvirtd", "qemu-system-x86_64")
	needPython(t)
	w := start(t)
	_, lv := w.libvirtd()
	direct := "qemu+unix:///system?socket=" + filepath.Join(lv, "run/libvirt-sock")
	python(t, "qemu+unix:///system?socket="+w.serve("c", "--upstream", filepath.Join(lv, "run/libvirt-sock")), direct)
}

// domains makes one with each form of a disk.
func (w *world) domains(c, direct virsh) {
	t := w.t
	for name, form := range map[string][2]string{"by-pool": {"volume", "pool='images' volume='by-pool'"}, "by-protocol": {"network", "protocol='sheepdog' name='images/by-protocol'"}} {
		c.do("vol-clone", "--pool", "images", "base", name)
		path := filepath.Join(w.dir, name+".xml")
		if err := os.WriteFile(path, fmt.Appendf(nil, domainText, name, form[0], form[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c.do("define", path)
		c.do("start", name)
		t.Logf("define and start %s: %v", name, time.Since(began).Round(time.Millisecond))
		if out := c.do("domstate", name); out != "running" {
			t.Errorf("%s is %s", name, out)
		}
		if out := direct.do("dumpxml", name); !strings.Contains(out, "protocol='nbd'") || !strings.Contains(out, "error_policy='stop'") {
			t.Errorf("libvirtd has\n%s", out)
		}
		shown := c.do("dumpxml", "--inactive", name)
		if !strings.Contains(shown, fmt.Sprintf("<source pool='images' volume='%s'/>", name)) {
			t.Errorf("the client gets\n%s", shown)
		}
		if err := os.WriteFile(path, []byte(shown), 0o600); err != nil {
			t.Fatal(err)
		}
		c.do("define", path)
	}
	c.do("attach-device", "by-pool", w.device("base", "vdb"))
	c.do("attach-device", "--config", "by-pool", w.device("base", "vdc"))
	c.do("detach-device", "--config", "by-pool", w.device("base", "vdc"))
	c.do("snapshot-create-as", "by-pool", "snap", "--disk-only")
	if out := w.dog("vdi", "list", "images/by-pool"); !strings.Contains(out, "snap") {
		t.Errorf("no snapshot of the VDI:\n%s", out)
	}
	c.refused("Guest agent", "snapshot-create-as", "by-pool", "other", "--disk-only", "--quiesce")
	c.refused("--disk-only", "snapshot-create-as", "by-pool", "other")
	if out := w.dog("vdi", "list", "images/by-pool"); strings.Contains(out, "other") {
		t.Errorf("an abandoned snapshot is left:\n%s", out)
	}
	c.do("snapshot-delete", "by-pool", "snap")
	w.leftOut(c)
	w.doors(c, direct)
	c.do("destroy", "by-protocol")
	w.reverts(c)
	c.do("undefine", "by-protocol", "--remove-all-storage")
	c.refused("Storage volume not found", "vol-info", "--pool", "images", "by-protocol")
	c.do("define", filepath.Join(w.dir, "by-protocol.xml"))
	c.refused("Storage volume not found: disk 'vda': no storage vol with matching name 'images/by-protocol'", "start", "by-protocol")
	c.refused("Storage volume not found", "create", filepath.Join(w.dir, "by-protocol.xml"))
	c.do("undefine", "by-protocol")
}

// leftOut has a snapshot of one of two disks, and one of a guest that is paused, which
// stays so.
func (w *world) leftOut(c virsh) {
	w.dog("vdi", "snapshot", "-s", "part", "images/base")
	c.refused("no disk 'vdx'", "snapshot-create-as", "by-pool", "part", "--disk-only", "--diskspec", "vdx,snapshot=no")
	c.do("snapshot-create-as", "by-pool", "part", "--disk-only", "--diskspec", "vdb,snapshot=no")
	if out := w.dog("vdi", "list", "images/by-pool"); !strings.Contains(out, "part") {
		w.t.Errorf("no snapshot of the first disk:\n%s", out)
	}
	c.do("suspend", "by-pool")
	c.do("snapshot-create-as", "by-pool", "paused", "--disk-only")
	if out := c.do("domstate", "by-pool"); out != "paused" {
		w.t.Errorf("a paused guest is %s after a snapshot", out)
	}
	c.do("resume", "by-pool")
	for _, name := range []string{"part", "paused"} {
		c.do("snapshot-delete", "by-pool", name)
	}
	if out := w.dog("vdi", "list", "images/by-pool"); strings.Contains(out, "part") || strings.Contains(out, "paused") {
		w.t.Errorf("left of the snapshots:\n%s", out)
	}
	w.dog("vdi", "delete", "-s", "part", "images/base") // which fails if it is gone
}

// reverts puts a domain that is off back to a snapshot: its disk, and its
// configuration.
func (w *world) reverts(c virsh) {
	const n = 1_000_001
	then, later, back := w.file("then", n), w.file("later", n), filepath.Join(w.dir, "reverted")
	c.do("vol-upload", "--pool", "images", "by-protocol", then)
	c.do("snapshot-create-as", "by-protocol", "then", "--disk-only")
	c.do("vol-upload", "--pool", "images", "by-protocol", later)
	c.do("setmaxmem", "by-protocol", "96M", "--config")
	c.do("snapshot-revert", "by-protocol", "then")
	c.do("vol-download", "--pool", "images", "by-protocol", back)
	w.same(then, back, n)
	if out := c.do("snapshot-dumpxml", "by-protocol", "then"); !strings.Contains(out, "<sheepdog:disk target=") || !strings.Contains(out, "images/by-protocol") {
		w.t.Errorf("the snapshot does not say what is part of it:\n%s", out)
	}
	if out := c.do("dumpxml", "by-protocol"); !strings.Contains(out, ">65536</memory>") || !strings.Contains(out, "volume='by-protocol'") || strings.Contains(out, "sheepdog:disk") {
		w.t.Errorf("after the revert there is\n%s", out)
	}
	if out := c.do("domstate", "by-protocol"); out != "shut off" {
		w.t.Errorf("after the revert it is %s", out)
	}
	c.do("vol-upload", "--pool", "images", "by-protocol", later)
	c.do("snapshot-revert", "by-protocol", "then", "--running")
	if out := c.do("domstate", "by-protocol"); out != "running" {
		w.t.Errorf("reverted to run it is %s", out)
	}
	c.refused("shut it off", "snapshot-revert", "by-protocol", "then")
	c.do("destroy", "by-protocol")
	c.do("vol-download", "--pool", "images", "by-protocol", back)
	w.same(then, back, n)
	c.refused("Domain snapshot not found", "snapshot-revert", "by-protocol", "none")
	c.do("snapshot-delete", "by-protocol", "then")
	if out := w.dog("vdi", "list", "images/by-protocol"); strings.Contains(out, "then") {
		w.t.Errorf("left of the snapshot:\n%s", out)
	}
}

// doors are the other ways in which XML of domains goes in and comes out.
func (w *world) doors(c, direct virsh) {
	t := w.t
	volume := "<source pool='images' volume='by-pool'/>"
	shows := func(out string) {
		t.Helper()
		if !strings.Contains(out, volume) || strings.Contains(out, "nbd") {
			t.Errorf("want the volume, got\n%s", out)
		}
	}
	image := filepath.Join(w.dir, "saved")
	c.do("save", "by-pool", image)
	shows(c.do("save-image-dumpxml", image))
	text := filepath.Join(w.dir, "saved.xml")
	if err := os.WriteFile(text, []byte(c.do("save-image-dumpxml", image)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.do("save-image-define", image, text)
	c.do("restore", image, "--xml", text)
	c.do("managedsave", "by-pool")
	shows(c.do("managedsave-dumpxml", "by-pool"))
	if out := direct.do("managedsave-dumpxml", "by-pool"); !strings.Contains(out, "protocol='nbd'") {
		t.Errorf("libvirtd has\n%s", out)
	}
	c.do("managedsave-define", "by-pool", text)
	c.do("start", "by-pool")
	shows(c.do("dumpxml", "--migratable", "by-pool"))
	c.do("update-device", "--config", "by-pool", w.device("by-pool", "vda"))
	shows(c.do("dumpxml", "--inactive", "by-pool"))
	if out := c.do("domxml-to-native", "qemu-argv", "--domain", "by-pool"); !strings.Contains(out, "images/by-pool") {
		t.Errorf("the native configuration is\n%s", out)
	}
	c.do("snapshot-create-as", "by-pool", "shown", "--disk-only")
	shows(c.do("snapshot-dumpxml", "by-pool", "shown"))
	c.do("snapshot-delete", "by-pool", "shown")
	w.blockcopy(c)
}

// blockcopy moves a running domain's disk from a file to the cluster.
func (w *world) blockcopy(c virsh) {
	c.do("vol-create-as", "dir", "moving", "8M")
	c.do("vol-create-as", "images", "moved", "8M")
	path := filepath.Join(w.dir, "moving.xml")
	text := fmt.Sprintf(domainText, "moving", "file", "file='"+filepath.Join(w.dir, "pool", "moving")+"'")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	c.do("create", path) // transient: libvirt copies no other
	c.do("blockcopy", "moving", "vda", "--xml", w.device("moved", "vda"), "--reuse-external", "--wait", "--pivot")
	if out := c.do("dumpxml", "moving"); !strings.Contains(out, "<source pool='images' volume='moved'") {
		w.t.Errorf("after the copy there is\n%s", out)
	}
	c.do("destroy", "moving")
	c.do("vol-delete", "--pool", "dir", "moving")
	c.do("vol-delete", "--pool", "images", "moved")
}

func (w *world) device(volume, target string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, "device.xml")
	text := fmt.Sprintf("<disk type='volume' device='disk'><source pool='images' volume='%s'/><target dev='%s' bus='virtio'/></disk>", volume, target)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// copies clones volumes between the kinds of pools.
func (w *world) copies(c virsh) {
	w.t.Helper()
	const n = 3_000_001
	raw := w.file("copied", n)
	c.do("vol-create-as", "dir", "raw", "4M")
	c.do("vol-upload", "--pool", "dir", "raw", raw)
	qcow := filepath.Join(w.dir, "pool", "qcow")
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow).CombinedOutput(); err != nil {
		w.t.Fatalf("%v %s", err, out)
	}
	c.do("pool-refresh", "dir")
	xml := filepath.Join(w.dir, "volume.xml")
	back := filepath.Join(w.dir, "copied-back")
	for _, step := range [][4]string{{"dir", "raw", "images", "from-raw"}, {"dir", "qcow", "images", "from-qcow"}, {"images", "from-raw", "dir", "there"}} {
		if err := os.WriteFile(xml, fmt.Appendf(nil, "<volume><name>%s</name><capacity>1</capacity><target><format type='raw'/></target></volume>", step[3]), 0o600); err != nil {
			w.t.Fatal(err)
		}
		c.do("vol-create-from", step[2], xml, step[1], "--inputpool", step[0])
		c.do("vol-download", "--pool", step[2], step[3], back)
		w.same(raw, back, n)
	}
	if err := os.WriteFile(xml, []byte("<volume><name>x</name><capacity>1</capacity><target><format type='qcow2'/></target></volume>"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	c.refused("is raw", "vol-create-from", "dir", xml, "base", "--inputpool", "images")
	c.refused("not found", "vol-create-from", "images", xml, "none", "--inputpool", "dir")
	if out := c.do("vol-list", "dir") + c.do("vol-list", "images"); strings.Contains(out, " x ") {
		w.t.Errorf("left behind:\n%s", out)
	}
	for _, v := range [][2]string{{"dir", "raw"}, {"dir", "qcow"}, {"dir", "there"}, {"images", "from-raw"}, {"images", "from-qcow"}} {
		c.do("vol-delete", "--pool", v[0], v[1])
	}
}
