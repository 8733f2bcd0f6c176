package server

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sheepdog/libvirtpool/rpc"
)

const twoDisks = `<domain><devices><disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>` +
	`<disk type='volume'><source pool='p' volume='w'/><target dev='vdb'/></disk></devices></domain>`

// stuckSnapshots take no snapshot, for as long as they may.
type stuckSnapshots struct {
	VDISnapshots
	begun chan struct{}
}

func (s stuckSnapshots) Snapshot(ctx context.Context, _, _ string) error {
	close(s.begun)
	<-ctx.Done()
	return ctx.Err()
}

// heldUp begins a snapshot of a domain, and returns when the guest is held up for it.
func heldUp(t *testing.T, domain string) (*world, *daemon, *raw) {
	t.Helper()
	w, d := behind(t)
	if err := w.cluster.Create(t.Context(), "p/w", 4096); err != nil {
		t.Fatal(err)
	}
	stuck := stuckSnapshots{w.cluster, make(chan struct{})}
	w.srv.cfg.Snapshots = stuck
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, domain)
	c.begin(rpc.DomainSnapshotCreateXML, "vm", noUUID, 7, "<domainsnapshot><name>s</name></domainsnapshot>", snapDiskOnly)
	select {
	case <-stuck.begun:
	case <-time.After(testTimeout):
		t.Fatal("no snapshot was begun")
	}
	return w, d, c
}

// A guest that was paused for a snapshot stayed paused when virsh was interrupted, or
// sheep-libvirt stopped: the connection to libvirtd was closed before the guest was
// resumed. One that was frozen waited for a later try, and a stopped server made none.
func TestGuestIsLetGoWhenTheClientOrTheServerEnds(t *testing.T) {
	for name, guest := range map[string]struct {
		xml        string
		hold, free rpc.Procedure
	}{
		"paused": {twoDisks, rpc.DomainSuspend, rpc.DomainResume},
		"frozen": {agentXML("connected"), rpc.DomainFSFreeze, rpc.DomainFSThaw},
	} {
		t.Run(name+", client", func(t *testing.T) {
			_, d, c := heldUp(t, guest.xml)
			if d.saw(guest.hold) != 1 || d.saw(guest.free) != 0 {
				t.Fatalf("the guest is not held up: %v", d.calls)
			}
			c.conn.Close()
			d.eventually(guest.free)
		})
		t.Run(name+", server", func(t *testing.T) {
			w, d, _ := heldUp(t, guest.xml)
			w.stop()
			if d.saw(guest.free) == 0 { // once more, if the answer of the first was lost
				t.Errorf("the guest stays as it is: libvirtd got %v", d.calls)
			}
		})
	}
}

// A pause whose answer is lost with the client was not undone.
func TestPauseWithoutAnAnswerIsUndone(t *testing.T) {
	w, d := behind(t)
	if err := w.cluster.Create(t.Context(), "p/w", 4096); err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	d.mu.Lock()
	d.hold[rpc.DomainSuspend] = gate
	d.mu.Unlock()
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, twoDisks)
	c.begin(rpc.DomainSnapshotCreateXML, "vm", noUUID, 7, "<domainsnapshot><name>s</name></domainsnapshot>", snapDiskOnly)
	d.eventually(rpc.DomainSuspend)
	c.conn.Close()
	d.eventually(rpc.DomainResume)
	close(gate)
}

// A guest that its owner had paused, or that was paused by an error of its disk, ran on
// after a snapshot of two disks. And the agent of one that does not run was waited for.
func TestSnapshotLeavesAPausedGuestPaused(t *testing.T) {
	for _, xml := range []string{twoDisks, agentXML("connected")} {
		w, d := behind(t)
		if err := w.cluster.Create(t.Context(), "p/w", 4096); err != nil {
			t.Fatal(err)
		}
		c := w.dial("").open()
		c.must(rpc.DomainDefineXML, xml)
		d.mu.Lock()
		d.state = 3 // paused
		d.mu.Unlock()
		c.must(rpc.DomainSnapshotCreateXML, "vm", noUUID, 7, "<domainsnapshot><name>s</name></domainsnapshot>", snapDiskOnly)
		for _, p := range []rpc.Procedure{rpc.DomainSuspend, rpc.DomainResume, rpc.DomainFSFreeze} {
			if n := d.saw(p); n != 0 {
				t.Errorf("procedure %d was called %d times", p, n)
			}
		}
	}
}

// What a client's reference says is as old as that: a domain that was started meanwhile,
// by somebody else, was rolled back while it ran, and its snapshots did not hold it up.
func TestStaleReferenceToADomainThatRuns(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, agentXML("connected"))
	c.must(rpc.DomainSnapshotCreateXML, "vm", noUUID, -1, "<domainsnapshot><name>s</name></domainsnapshot>", 0)
	if err := w.cluster.Write(t.Context(), "p/v", 0, strings.NewReader("later")); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.state = 1 // running
	d.mu.Unlock()
	if _, err := c.call(rpc.DomainSnapshotRevert, "s", "vm", noUUID, -1, 0); err == nil || err.Code != rpc.CodeInvalid {
		t.Errorf("a running domain is reverted: %v", err)
	}
	if b := w.cluster.Bytes("p/v"); !strings.HasPrefix(string(b), "later") {
		t.Error("the volume of a running domain was rolled back")
	}
	c.must(rpc.DomainSnapshotCreateXML, "vm", noUUID, -1, "<domainsnapshot><name>s2</name></domainsnapshot>", snapDiskOnly)
	if n := d.saw(rpc.DomainFSFreeze); n != 1 {
		t.Errorf("the guest was frozen %d times", n)
	}
}

// The reader of libvirtd's answers waited for one of the calls in progress to end, all of
// which waited for answers of libvirtd: for a minute.
func TestLookUpsDoNotWaitForCallsThatWaitForLibvirtd(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	lists, lookups := make(chan struct{}), make(chan struct{})
	d.mu.Lock()
	d.hold[rpc.ConnectNumPools], d.hold[rpc.VolumeLookupPath] = lists, lookups
	d.mu.Unlock()
	for range maxCalls {
		c.begin(rpc.ConnectNumPools)
	}
	c.begin(rpc.VolumeLookupPath, "p/v")
	d.eventually(rpc.VolumeLookupPath)
	for d.saw(rpc.ConnectNumPools) < maxCalls {
		runtime.Gosched()
	}
	close(lookups)
	c.begin(rpc.ConnectHostname) // its answer comes behind that of the look-up
	if m := c.read(); m.Procedure != rpc.ConnectHostname {
		t.Errorf("%+v was answered before", m.Header)
	}
	close(lists)
	for range maxCalls + 1 {
		c.read()
	}
}

// Calls with XML of libvirtd's own pools needed a second place among the calls in
// progress each: as many as there are places waited for each other for ever.
func TestManyMachinesOfOtherPoolsAreMadeAtOnce(t *testing.T) {
	w, _ := behind(t)
	c := w.dial("").open()
	text := "<domain><devices><disk type='volume'><source pool='dir' volume='x'/><target dev='vda'/></disk></devices></domain>"
	const n = 3 * maxCalls
	for range n {
		c.begin(rpc.DomainCreateXML, text, uint32(0))
	}
	for range n {
		c.read()
	}
}

// gatedSnapshots wait for a gate.
type gatedSnapshots struct {
	VDISnapshots
	begun chan struct{}
	gate  chan struct{}
}

func (s gatedSnapshots) Snapshot(ctx context.Context, vdi, tag string) error {
	s.begun <- struct{}{}
	<-s.gate
	return s.VDISnapshots.Snapshot(ctx, vdi, tag)
}

// The second of two snapshots of a domain at a time thawed the guest, or the first one
// resumed it, while the other one was half taken.
func TestSnapshotsOfADomainAreTakenOneAfterTheOther(t *testing.T) {
	w, d := behind(t)
	gated := gatedSnapshots{w.cluster, make(chan struct{}, 2), make(chan struct{})}
	w.srv.cfg.Snapshots = gated
	var clients []*raw
	for i, name := range []string{"a", "b"} {
		c := w.dial("").open()
		if i == 0 {
			c.must(rpc.DomainDefineXML, agentXML("connected"))
		}
		c.begin(rpc.DomainSnapshotCreateXML, "vm", noUUID, 7, "<domainsnapshot><name>"+name+"</name></domainsnapshot>", snapDiskOnly)
		if i == 0 {
			<-gated.begun
		}
		clients = append(clients, c)
	}
	clients[1].begin(rpc.ConnectHostname)
	clients[1].read()
	close(gated.gate)
	for _, c := range clients {
		if m := c.read(); m.Status != rpc.OK {
			t.Errorf("%v", rpc.DecodeError(m.Payload()))
		}
	}
	var order []rpc.Procedure
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.calls {
		if p == rpc.DomainFSFreeze || p == rpc.DomainFSThaw {
			order = append(order, p)
		}
	}
	if want := []rpc.Procedure{rpc.DomainFSFreeze, rpc.DomainFSThaw, rpc.DomainFSFreeze, rpc.DomainFSThaw}; !slices.Equal(order, want) {
		t.Errorf("the guest was frozen and thawed in the order %v", order)
	}
}
