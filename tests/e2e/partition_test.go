package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fabric is a switch and a host per sheep, in network namespaces of their own.
type fabric struct {
	t    *testing.T
	name string
}

// startInNamespaces starts n sheep, each in a namespace with one link to a
// switch.
func startInNamespaces(t *testing.T, n int) (*world, *fabric) {
	t.Helper()
	need(t, "ip", "iptables")
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root to make network namespaces")
	}
	f := &fabric{t: t, name: fmt.Sprintf("shp%d", os.Getpid())}
	if out, err := exec.Command("ip", "netns", "add", f.hub()).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: cannot make a network namespace here: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", f.hub()).Run() })
	f.ip(f.hub(), "link", "add", "br0", "type", "bridge")
	f.ip(f.hub(), "link", "set", "br0", "up")
	w := &world{t: t, bin: mustAbs(t, "../../bin")}
	var err error
	if w.dir, err = os.MkdirTemp("", "shp"); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s := &sheep{port: freePort(t), zone: i, ns: f.host(i), addr: fmt.Sprintf("10.123.45.%d", i+1)}
		f.plug(i, s.addr)
		w.sheep = append(w.sheep, s)
	}
	t.Cleanup(w.end) // before the namespaces go
	for _, s := range w.sheep {
		w.run(s)
	}
	return w, f
}

func (f *fabric) hub() string       { return f.name + "-hub" }
func (f *fabric) host(i int) string { return fmt.Sprintf("%s-%d", f.name, i) }

func (f *fabric) ip(ns string, args ...string) {
	f.t.Helper()
	tool(f.t, "ip", append([]string{"-n", ns}, args...)...)
}

// plug makes host i and connects it to the switch.
func (f *fabric) plug(i int, addr string) {
	f.t.Helper()
	host, port := f.host(i), fmt.Sprintf("p%d", i)
	tool(f.t, "ip", "netns", "add", host)
	f.t.Cleanup(func() { exec.Command("ip", "netns", "del", host).Run() })
	f.ip(f.hub(), "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
	f.ip(f.hub(), "link", "set", port, "master", "br0")
	f.ip(f.hub(), "link", "set", port, "up")
	f.ip(host, "addr", "add", addr+"/24", "dev", "eth0")
	f.ip(host, "link", "set", "eth0", "up")
	f.ip(host, "link", "set", "lo", "up")
}

// cut takes host i off the switch; mend puts it back.
func (f *fabric) cut(i int)  { f.ip(f.hub(), "link", "set", fmt.Sprintf("p%d", i), "down") }
func (f *fabric) mend(i int) { f.ip(f.hub(), "link", "set", fmt.Sprintf("p%d", i), "up") }

// silence drops what host i sends but lets it hear the others; or the reverse.
func (f *fabric) silence(i int, chain, op string) {
	f.t.Helper()
	dir := map[string]string{"OUTPUT": "-o", "INPUT": "-i"}[chain]
	tool(f.t, "ip", "netns", "exec", f.host(i), "iptables", op, chain, dir, "eth0", "-j", "DROP")
}

// A node is cut off, wholly, then in one direction and in the other, while the
// rest serves verified load. It acknowledges nothing meanwhile, and follows when
// the cut is mended.
func TestPartitionedNodeAcknowledgesNothing(t *testing.T) {
	need(t, "fio")
	w, f := startInNamespaces(t, 3)
	w.format(3)
	w.dog("vdi", "create", "vm", "64M")
	w.dog("vdi", "create", "other", "64M")
	cuts := []struct {
		name      string
		cut, mend func()
	}{
		{"both ways", func() { f.cut(2) }, func() { f.mend(2) }},
		{"it is not heard", func() { f.silence(2, "OUTPUT", "-A") }, func() { f.silence(2, "OUTPUT", "-D") }},
		{"it hears nothing", func() { f.silence(2, "INPUT", "-A") }, func() { f.silence(2, "INPUT", "-D") }},
	}
	for i, c := range cuts {
		t.Run(c.name, func(t *testing.T) {
			var wg sync.WaitGroup
			wg.Go(func() {
				out := fio(t, w.uri(w.sheep[0], "vm"), "--rw=randwrite", "--verify=crc32c", "--verify_backlog=256", "--fsync=16", "--iodepth=8", "--runtime=7", "--time_based=1", "--do_verify=1")
				lat := maxLatency(t, out)
				t.Logf("longest I/O of the majority %v", lat)
				if lat > 5*time.Second {
					t.Errorf("longest I/O %v", lat)
				}
			})
			time.Sleep(time.Second)
			c.cut()
			time.Sleep(3 * time.Second) // the majority goes on without it
			w.wantNoAck(t, w.sheep[2], "other", i)
			c.mend()
			wg.Wait()
			w.recovered(60 * time.Second)
			w.sameEverywhere(t, "other")
		})
	}
	w.checked()
}

// wantNoAck writes at a sheep that is cut off and wants no success.
func (w *world) wantNoAck(t *testing.T, s *sheep, name string, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	cmd := s.command(ctx, filepath.Join(w.bin, "dog"), "vdi", "write", name, "0", "-a", s.addr, "-p", strconv.Itoa(s.port))
	cmd.Stdin = strings.NewReader(fmt.Sprintf("from the minority %d", round))
	if err := cmd.Run(); err == nil {
		t.Error("the minority acknowledged a write")
	}
}

// sameEverywhere reads a VDI through every gateway.
func (w *world) sameEverywhere(t *testing.T, name string) {
	t.Helper()
	first := w.dog("vdi", "read", name)
	for _, s := range w.sheep[1:] {
		if got := w.dogOn(s, "vdi", "read", name); !bytes.Equal([]byte(got), []byte(first)) {
			t.Errorf("port %d reads something else of %s", s.port, name)
		}
	}
}
