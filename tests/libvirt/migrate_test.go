package libvirt

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// host is one of several libvirtds that take each other for hosts, each with a
// sheep of its own.
type host struct {
	virsh         // through sheep-libvirt
	direct virsh  // its libvirtd
	socket string // where its guests find their disks
}

// hosts starts two of them. Their guests find the sheep at one path, as on real
// hosts, or, if apart, each at its own.
func (w *world) hosts(apart bool) (out [2]host) {
	w.t.Helper()
	for i := range out {
		name := fmt.Sprintf("host%d", i)
		upstream := filepath.Join(w.dir, "lv"+name, "run/libvirt-sock")
		socket := "/run/sheepdog/nbd.sock"
		if apart {
			name += "-apart"
			socket = filepath.Join(w.nbd(i), "nbd.sock")
		} else {
			w.libvirtdAt("lv"+name, name, w.nbd(i))
		}
		path := filepath.Join(w.dir, name+".sock")
		w.run(name, filepath.Join(w.bin, "sheep-libvirt"), "--listen", path, "--state", filepath.Join(w.dir, name), "--spool", w.dir,
			"--api", fmt.Sprintf("127.0.0.1:%d", w.ports[i]), "--nbd-socket", socket, "--upstream", upstream)
		w.answers(path)
		out[i] = host{virsh{w.t, "qemu+unix:///system?socket=" + path}, virsh{w.t, "qemu+unix:///system?socket=" + upstream}, socket}
	}
	return out
}

// A guest goes on counting on another host, to which it moves while it runs, and
// has its disk from that host's sheep.
func TestMigration(t *testing.T) {
	need(t, "virsh", "libvirtd", "qemu-system-x86_64")
	w := start(t)
	near := w.hosts(false)
	near[1].do("list")
	serial := w.startCounting(near[0].virsh)
	near[1].do("pool-start", "images")
	for _, how := range [][]string{nil, {"--p2p"}, {"--p2p", "--tunnelled"}, {"--p2p"}} {
		w.move(near[0], near[1], how...)
		near[0], near[1] = near[1], near[0]
	}
	near[0].do("destroy", "counting")
	near[0].do("undefine", "counting")
	near[0].do("vol-wipe", "--pool", "images", "counting")
	near[0].do("vol-upload", "--pool", "images", "counting", filepath.Join(w.dir, "counting.raw"))

	apart := w.hosts(true)
	apart[0].do("pool-start", "images")
	apart[1].do("pool-start", "images")
	apart[0].do("define", filepath.Join(w.dir, "counting.xml"))
	apart[0].do("start", "counting")
	w.counts(apart[0].virsh)
	w.move(apart[0], apart[1])
	w.quiet(serial)
}

// move migrates the counting guest.
func (w *world) move(from, to host, how ...string) {
	t := w.t
	t.Helper()
	before := w.count()
	args := []string{"migrate", "--live", "--persistent", "--undefinesource", "counting", to.uri}
	if !strings.Contains(strings.Join(how, " "), "tunnelled") {
		args = append(args, "--migrateuri", fmt.Sprintf("tcp://127.0.0.1:%d", freePorts(t, 1)[0]), "--listen-address", "127.0.0.1")
	}
	from.do(append(args, how...)...)
	w.counts(to.virsh)
	if now := w.count(); now <= before {
		t.Errorf("it has counted to %d, and to %d before", now, before)
	}
	from.refused("failed to get domain", "domstate", "counting")
	for _, flag := range []string{"--security-info", "--inactive"} {
		if out := to.do("dumpxml", flag, "counting"); !strings.Contains(out, "<source pool='images' volume='counting'") {
			t.Errorf("%v: the other host shows with %s\n%s", how, flag, out)
		}
		if out := to.direct.do("dumpxml", flag, "counting"); !strings.Contains(out, "socket='"+to.socket+"'") {
			t.Errorf("%v: with %s the disk is not at %s:\n%s", how, flag, to.socket, out)
		}
	}
}
