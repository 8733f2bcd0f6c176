package lab

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FaultyDisk is a disk that becomes slow or fails when told: an image that
// qemu-storage-daemon exports as a file, under a loop device and a file system.
type FaultyDisk struct {
	tb   testing.TB
	lab  *Lab
	dir  string // that the file system is mounted on
	conn net.Conn
	qmp  *json.Decoder
	n    int // faults so far
}

// GiveFaultyDisk puts a directory of the lab on a disk of size bytes. Its file
// system is ext4 without a journal: an error fails the calls that it belongs to,
// and not, as the end of a journal would, the whole file system.
func (l *Lab) GiveFaultyDisk(dir string, size int64) *FaultyDisk {
	l.TB.Helper()
	Need(l.TB, "qemu-storage-daemon", "losetup", "mkfs.ext4")
	NeedRoot(l.TB, "to mount")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		l.TB.Skipf("SKIPPED: no FUSE here: %v", err)
	}
	base := dir + ".faulty"
	image, file, sock, pidfile := base+".img", base+".fuse", base+".qmp", base+".pid"
	for path, size := range map[string]int64{image: size, file: 0} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			l.TB.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			l.TB.Fatal(err)
		}
	}
	Tool(l.TB, "mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", image)
	l.daemon(pidfile, "--blockdev", "driver=file,node-name=file,filename="+image, "--object", "throttle-group,id=group",
		"--blockdev", "driver=throttle,node-name=disk,throttle-group=group,file=file",
		"--export", "type=fuse,id=export,node-name=disk,mountpoint="+file+",writable=on",
		"--chardev", "socket,id=qmp,path="+sock+",server=on,wait=off", "--monitor", "chardev=qmp")
	l.mounts = append(l.mounts, file)
	l.mount(file, dir)
	conn, err := net.Dial("unix", sock)
	if err != nil {
		l.TB.Fatal(err)
	}
	d := &FaultyDisk{tb: l.TB, lab: l, dir: dir, conn: conn, qmp: json.NewDecoder(conn)}
	l.TB.Cleanup(func() { conn.Close() })
	var hello any
	if err := d.qmp.Decode(&hello); err != nil {
		l.TB.Fatal(err)
	}
	d.execute("qmp_capabilities", nil)
	return d
}

// daemon starts qemu-storage-daemon; it ends after the mounts on it are gone.
func (l *Lab) daemon(pidfile string, args ...string) {
	l.TB.Helper()
	args = append([]string{"--daemonize", "--pidfile", pidfile}, args...)
	if out, err := exec.Command("qemu-storage-daemon", args...).CombinedOutput(); err != nil {
		l.TB.Skipf("SKIPPED: qemu-storage-daemon does not export by FUSE here: %v: %s", err, out)
	}
	b, err := os.ReadFile(pidfile)
	if err != nil {
		l.TB.Fatal(err)
	}
	pid := strings.TrimSpace(string(b))
	note("pid", pid)
	l.daemons = append(l.daemons, pid)
}

// endDaemons ends what daemon started. They are no children of ours.
func (l *Lab) endDaemons() {
	for _, name := range l.daemons {
		pid, err := strconv.Atoi(name)
		if err == nil {
			err = terminate(pid)
		}
		if err != nil {
			l.TB.Errorf("end qemu-storage-daemon: %v", err)
			continue
		}
		unnote("pid", name)
	}
}

// qmpLimit is how long the daemon may take for a command.
const qmpLimit = 20 * time.Second

func (d *FaultyDisk) execute(command string, args any) {
	d.tb.Helper()
	d.conn.SetDeadline(time.Now().Add(qmpLimit))
	req := map[string]any{"execute": command}
	if args != nil {
		req["arguments"] = args
	}
	if err := json.NewEncoder(d.conn).Encode(req); err != nil {
		d.tb.Fatal(err)
	}
	for {
		var reply map[string]any
		if err := d.qmp.Decode(&reply); err != nil {
			d.tb.Fatal(err)
		}
		if e, bad := reply["error"]; bad {
			d.tb.Fatalf("%s: %v", command, e)
		}
		if _, done := reply["return"]; done {
			return
		}
	}
}

// Slow limits the disk to a number of operations per second; 0 ends it.
func (d *FaultyDisk) Slow(iops int) {
	d.tb.Helper()
	d.execute("qom-set", map[string]any{"path": "/objects/group", "property": "limits", "value": map[string]int{"iops-total": iops}})
}

// FailOnce has the next operation of a kind (read, write, flush) fail with EIO.
func (d *FaultyDisk) FailOnce(kind string) {
	d.tb.Helper()
	d.fail(kind, true)
}

// Fail has all operations of a kind fail with EIO, until Mend.
func (d *FaultyDisk) Fail(kind string) {
	d.tb.Helper()
	d.fail(kind, false)
}

// Die has all reads and writes fail with EIO, until Mend. Flushes of the daemon do
// not, or it could not mend; of the file system they do, for what they write.
func (d *FaultyDisk) Die() {
	d.tb.Helper()
	d.inject(fault("read", false), fault("write", false), fault("write-zeroes", false), fault("discard", false))
}

func (d *FaultyDisk) fail(kind string, once bool) {
	d.tb.Helper()
	d.inject(fault(kind, once))
}

func fault(kind string, once bool) any {
	return map[string]any{"event": "none", "iotype": kind, "errno": 5, "once": once}
}

func (d *FaultyDisk) inject(faults ...any) {
	d.tb.Helper()
	d.n++
	name := fmt.Sprintf("fault%d", d.n)
	d.execute("blockdev-add", map[string]any{"driver": "blkdebug", "node-name": name, "image": "file", "inject-error": faults})
	d.below(name)
}

// Mend ends all failures.
func (d *FaultyDisk) Mend() {
	d.tb.Helper()
	d.below("file")
}

func (d *FaultyDisk) below(node string) {
	d.tb.Helper()
	d.execute("blockdev-reopen", map[string]any{"options": []any{map[string]any{"driver": "throttle", "node-name": "disk", "throttle-group": "group", "file": node}}})
}

// Remount forgets what the page cache holds of the disk. Nobody may use it.
func (d *FaultyDisk) Remount() {
	d.tb.Helper()
	source := d.dir + ".faulty.fuse"
	Tool(d.tb, "umount", d.dir)
	d.lab.released(source)
	Tool(d.tb, "mount", "-o", "loop", source, d.dir)
}

// File is a path on the disk.
func (d *FaultyDisk) File(name string) string { return filepath.Join(d.dir, name) }
