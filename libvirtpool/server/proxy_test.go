package server

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// daemon is a libvirtd in a few lines: one dir pool, and domains that are what
// was defined last. It answers out of order when told to.
type daemon struct {
	t    *testing.T
	path string

	mu       sync.Mutex
	identity []rpc.Param
	flags    uint32 // of the last open
	domain   string // XML of the last definition
	calls    []rpc.Procedure
	failing  map[rpc.Procedure]*rpc.Error
	hold     map[rpc.Procedure]chan struct{} // calls that wait for a channel to close
	conns    []net.Conn
	redefine string // XML of the last snapshot that was written down
	state    int    // of the domain; 0: it runs if the client's reference has an id
}

var dirUUID = rpc.UUID{1, 2, 3}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{t: t, path: filepath.Join(t.TempDir(), "d"), failing: map[rpc.Procedure]*rpc.Error{}, hold: map[rpc.Procedure]chan struct{}{}}
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns = append(d.conns, conn)
			d.mu.Unlock()
			wg.Go(func() { d.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); d.hangUp(); wg.Wait() })
	return d
}

func (d *daemon) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
}

func (d *daemon) serve(conn net.Conn) {
	defer conn.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	out := newWire(conn)
	r := bufio.NewReader(conn)
	for {
		m, err := rpc.ReadMessage(r)
		if err != nil {
			return
		}
		d.mu.Lock()
		d.calls = append(d.calls, m.Procedure)
		hold := d.hold[m.Procedure]
		d.mu.Unlock()
		answer := func() {
			payload, fail := d.answer(m)
			reply := rpc.NewMessage(m.Header.Reply(rpc.OK), payload)
			if fail != nil {
				reply = rpc.NewMessage(m.Header.Reply(rpc.Failed), fail.Encode())
			}
			_ = out.send(reply)
		}
		if hold == nil {
			answer()
			continue
		}
		wg.Go(func() { <-hold; answer() })
	}
}

func (d *daemon) answer(m *rpc.Message) ([]byte, *rpc.Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.failing[m.Procedure]; e != nil {
		return nil, e
	}
	in := rpc.NewDecoder(m.Payload())
	switch m.Procedure {
	case rpc.AuthList:
		return encode(1, 0), nil
	case rpc.ConnectOpen:
		in.OptString()
		d.flags = in.Uint32()
	case rpc.ConnectSetIdentity:
		d.identity = in.Params()
	case rpc.ConnectListAllPools:
		return encode(1, "dir", dirUUID, 1), nil
	case rpc.ConnectNumPools:
		return encode(1), nil
	case rpc.ConnectListPools:
		return encode(1, "dir"), nil
	case rpc.ConnectPoolCaps:
		return encode("<storagepoolCapabilities>\n  <pool type='dir' supported='yes'>\n  </pool>\n</storagepoolCapabilities>\n"), nil
	case rpc.PoolLookupName:
		if name := in.String(); name != "dir" {
			return nil, rpc.Errorf(rpc.CodeNoPool, "no pool %s", name)
		}
		return encode("dir", dirUUID), nil
	case rpc.PoolLookupUUID:
		if in.UUID() != dirUUID {
			return nil, rpc.Errorf(rpc.CodeNoPool, "no such pool")
		}
		return encode("dir", dirUUID), nil
	case rpc.VolumeLookupPath:
		return nil, rpc.Errorf(rpc.CodeNoVolume, "no such volume")
	case rpc.PoolEventRegister:
		return encode(41), nil
	case rpc.DomainDefineXML:
		d.domain = in.String()
		return encode("vm", noUUID, -1), nil
	case rpc.DomainXML:
		return encode(d.domain), nil
	case rpc.DomainState:
		return encode(d.stateOf(decodeDomain(in)), 0), nil
	case rpc.DomainSnapshotCreateXML:
		decodeDomain(in)
		d.redefine = in.String()
		return encode("s", "vm", noUUID, -1), nil
	case rpc.DomainSnapshotXML:
		return encode(d.redefine), nil
	}
	return nil, nil
}

func (d *daemon) stateOf(dom domain) int {
	switch {
	case d.state != 0:
		return d.state
	case dom.id >= 0:
		return 1 // running
	}
	return 5 // shut off
}

// defined is the domain's XML.
func (d *daemon) defined() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.domain
}

// eventually waits until libvirtd was called for.
func (d *daemon) eventually(p rpc.Procedure) {
	d.t.Helper()
	for range 2000 {
		if d.saw(p) > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	d.t.Fatalf("procedure %d did not reach libvirtd", p)
}

// saw reports how often a procedure was called.
func (d *daemon) saw(p rpc.Procedure) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c == p {
			n++
		}
	}
	return n
}

func (d *daemon) fail(p rpc.Procedure, e *rpc.Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing[p] = e
}

// behind makes a server in front of a daemon, with a pool p of one volume v.
func behind(t *testing.T) (*world, *daemon) {
	t.Helper()
	d := startDaemon(t)
	w := start(t, func(c *Config) { c.Upstream, c.UpstreamReadOnly = d.path, d.path })
	w.pool("p", "v", 1<<20)
	return w, d
}

func TestIdentityGoesUpstream(t *testing.T) {
	w, d := behind(t)
	w.dial("").open()
	d.mu.Lock()
	got := map[string]any{}
	for _, p := range d.identity {
		got[p.Field] = p.Value
	}
	flags := d.flags
	d.mu.Unlock()
	if got["unix-user-id"] == nil || got["process-id"] == nil || got["unix-group-id"] == nil || flags&openReadOnly != 0 {
		t.Errorf("identity %v, flags %d", got, flags)
	}
	w.dial("-ro").open()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.flags&openReadOnly == 0 {
		t.Error("the read-only socket opened libvirtd for writing")
	}
}

// Calls that a client sends right behind its open must not run as this process:
// libvirtd gets them after the identity.
func TestNothingOvertakesTheIdentity(t *testing.T) {
	w, d := behind(t)
	gate := make(chan struct{})
	d.mu.Lock()
	d.hold[rpc.ConnectOpen] = gate
	d.mu.Unlock()
	c := w.dial("")
	c.begin(rpc.ConnectOpen, null{}, 0)
	c.begin(rpc.DomainDefineXML, "<domain/>")
	for d.saw(rpc.ConnectOpen) == 0 {
		runtime.Gosched()
	}
	close(gate)
	c.read()
	c.read()
	d.mu.Lock()
	defer d.mu.Unlock()
	identity, define := slices.Index(d.calls, rpc.ConnectSetIdentity), slices.Index(d.calls, rpc.DomainDefineXML)
	if identity < 0 || define < identity {
		t.Errorf("libvirtd got %v", d.calls)
	}
}

// A client cannot answer our own calls by using their serials.
func TestOurSerialsAreNotTheClients(t *testing.T) {
	w, _ := behind(t)
	c := w.dial("").open()
	c.serial = ownSerials
	c.begin(rpc.ConnectHostname)
	if _, err := rpc.ReadMessage(c.conn); err == nil {
		t.Error("a serial of ours was taken")
	}
}

// A libvirtd that does not take the client's identity would act as this process.
func TestRefusedIdentityEndsTheOpen(t *testing.T) {
	w, d := behind(t)
	d.fail(rpc.ConnectSetIdentity, rpc.Errorf(rpc.CodeDenied, "no"))
	if _, err := w.dial("").call(rpc.ConnectOpen, null{}, 0); err == nil || err.Code != rpc.CodeDenied {
		t.Errorf("open: %v", err)
	}
}

func TestListsAreMerged(t *testing.T) {
	w, _ := behind(t)
	c := w.dial("").open()
	l := c.must(rpc.ConnectListAllPools, 1, 0)
	var names []string
	for range l.Count(9, 20) {
		names = append(names, l.String())
		l.UUID()
	}
	if n := l.Uint32(); strings.Join(names, " ") != "dir p" || n != 2 {
		t.Errorf("%v, %d", names, n)
	}
	if n := c.must(rpc.ConnectNumPools).Int32(); n != 2 {
		t.Errorf("%d pools", n)
	}
	if d := c.must(rpc.ConnectListPools, 1); d.Uint32() != 1 || d.String() != "dir" {
		t.Error("a list of one name")
	}
	if s := c.must(rpc.ConnectPoolCaps, 0).String(); !strings.Contains(s, "'dir'") || strings.Count(s, "'sheepdog'") != 1 {
		t.Error(s)
	}
}

func TestCallsFindTheirWay(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	for _, name := range []string{"dir", "p"} {
		if got := c.must(rpc.PoolLookupName, name).String(); got != name {
			t.Errorf("look-up of %s found %s", name, got)
		}
	}
	if _, err := c.call(rpc.PoolLookupName, "nope"); err == nil || err.Code != rpc.CodeNoPool {
		t.Errorf("neither has it: %v", err)
	}
	if got := c.must(rpc.VolumeLookupPath, "p/v"); got.String() != "p" || got.String() != "v" {
		t.Error("a volume by path")
	}
	c.must(rpc.PoolRefresh, "dir", dirUUID, 0)
	c.must(rpc.PoolRefresh, "p", noUUID, 0)
	if n := d.saw(rpc.PoolRefresh); n != 1 {
		t.Errorf("libvirtd saw %d refreshes", n)
	}
	for _, text := range []string{"<pool type='sheepdog'><name>dir</name></pool>", "<pool type='dir'><name>p</name></pool>",
		"<pool type='sheepdog'><name>x</name><uuid>01020300-0000-0000-0000-000000000000</uuid></pool>"} {
		if _, err := c.call(rpc.PoolDefineXML, text, 0); err == nil || err.Code != rpc.CodeFailed {
			t.Errorf("%s: %v", text, err)
		}
	}
	if v := c.must(rpc.ConnectFeature, 8).Int32(); v != 0 {
		t.Error("descriptors are promised")
	}
}

// A call that libvirtd is slow with holds up neither ours nor other ones of its
// own; replies carry the serials of their calls.
func TestSlowCallsHoldUpNothing(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	gate := make(chan struct{})
	d.mu.Lock()
	d.hold[rpc.ConnectNumPools] = gate
	d.hold[rpc.ConnectHostname] = gate
	d.mu.Unlock()
	slow := map[uint32]bool{c.begin(rpc.ConnectNumPools): true, c.begin(rpc.ConnectHostname): true}
	for range 10 {
		c.must(rpc.PoolIsActive, "p", noUUID)
		c.must(rpc.PoolRefresh, "dir", dirUUID, 0)
	}
	close(gate)
	for range 2 {
		if m := c.read(); !slow[m.Serial] {
			t.Errorf("late reply %+v", m.Header)
		}
	}
}

func TestEventsUseLibvirtdsID(t *testing.T) {
	w, _ := behind(t)
	c := w.dial("").open()
	if id := c.must(rpc.PoolEventRegister, 0, 0).Int32(); id != 41 {
		t.Fatalf("id %d", id)
	}
	if err := w.driver.Destroy(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	if m := c.read(); m.Procedure != rpc.PoolEventLifecycle || rpc.NewDecoder(m.Payload()).Int32() != 41 {
		t.Errorf("event %+v", m.Header)
	}
}

const domainXML = `<domain><devices><disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk></devices></domain>`

func TestDisksAreRewrittenAndShownBack(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, domainXML)
	d.mu.Lock()
	theirs := d.domain
	d.mu.Unlock()
	if !strings.Contains(theirs, "protocol='nbd' name='p/v'") || !strings.Contains(theirs, "/nbd.sock") {
		t.Errorf("libvirtd got\n%s", theirs)
	}
	ours := c.must(rpc.DomainXML, "vm", noUUID, -1, 0).String()
	if !strings.Contains(ours, "<source pool='p' volume='v'/>") || strings.Contains(ours, "nbd") {
		t.Errorf("the client gets\n%s", ours)
	}
	c.must(rpc.DomainDefineXML, ours)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.domain != theirs {
		t.Errorf("after a redefinition:\n%s\nwant\n%s", d.domain, theirs)
	}
}

// A domain on a pool that another host had defined within the last seconds was
// not understood.
func TestPoolOfAnotherHostIsFoundInXML(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	def := storage.Definition{Name: "fresh", Namespace: "fresh", UUID: rpc.UUID{9}}
	if err := w.cluster.Add(t.Context(), def); err != nil {
		t.Fatal(err)
	}
	c.must(rpc.DomainDefineXML, strings.ReplaceAll(domainXML, "'p'", "'fresh'"))
	c.must(rpc.ConnectHostname)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !strings.Contains(d.domain, "protocol='nbd' name='fresh/v'") {
		t.Errorf("libvirtd got\n%s", d.domain)
	}
}

func TestXMLIsFoundAmongArguments(t *testing.T) {
	upper := func(s string) string { return strings.ReplaceAll(s, "disk", "DISK") }
	params := func(s string) []byte {
		var e rpc.Encoder
		e.Params([]rpc.Param{{Field: "bandwidth", Value: uint64(3)}, {Field: "destination_xml", Value: s}, {Field: "disks", Value: "disk"}})
		return e.Bytes()
	}
	dom := []any{"vm", noUUID, 7}
	for p, args := range map[rpc.Procedure][]any{
		rpc.DomainCreateXML:         {"disk", 5},
		rpc.DomainAttachDevice:      append(dom, "disk"),
		rpc.DomainBlockCopy:         append(dom, "vda", "disk", 0, 0),
		rpc.DomainSaveFlags:         append(dom, "/disk", optional("disk"), 0),
		rpc.DomainRestoreFlags:      {"/disk", optional("disk"), 0},
		rpc.DomainMigratePrepare3:   {"cook", optional("disk-uri"), uint64(1), null{}, uint64(2), "disk"},
		rpc.DomainMigrateFinish3:    {"name", "disk\x00", null{}, null{}, uint64(1), 0},
		rpc.DomainMigrateFinish3P:   {params("disk"), "disk\x00", 0, 0},
		rpc.DomainMigratePrepare3P:  {params("disk"), "cookie", 0},
		rpc.DomainMigratePerform3P:  append(dom, null{}, params("disk"), "cookie", 0),
		rpc.DomainManagedSaveDefine: append(dom, optional("disk"), 0),
		rpc.DomainCheckpointCreate:  append(dom, "disk", 0),
	} {
		in := encode(args...)
		out, changed, err := rewrite(in, callLayout(p), upper)
		if err != nil || !changed {
			t.Errorf("procedure %d: changed %t, %v", p, changed, err)
			continue
		}
		back, _, err := rewrite(out, callLayout(p), func(s string) string { return strings.ReplaceAll(s, "DISK", "disk") })
		want := 1
		if p == rpc.DomainMigrateFinish3P {
			want = 2 // the domain is told twice
		}
		if err != nil || string(back) != string(in) || strings.Count(string(out), "DISK") != want {
			t.Errorf("procedure %d: % x became % x (%v)", p, in, out, err)
		}
		if _, _, err := rewrite(in[:len(in)/3], callLayout(p), upper); err == nil {
			t.Errorf("procedure %d: a third of the arguments was accepted", p)
		}
	}
}

func TestLibvirtdHangsUp(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	d.hangUp()
	if _, err := rpc.ReadMessage(c.conn); err == nil {
		t.Error("the client is not told")
	}
	again := w.dial("").open() // libvirtd has been restarted
	again.must(rpc.ConnectHostname)
}

func TestWithoutLibvirtd(t *testing.T) {
	w := start(t, func(c *Config) { c.Upstream = "/nonexistent/sock" })
	if _, err := rpc.ReadMessage(w.dial("").conn); err == nil {
		t.Error("a client is served without a libvirtd")
	}
}

func agentXML(state string) string {
	return strings.Replace(domainXML, "</devices>", "<channel><target name='org.qemu.guest_agent.0' state='"+state+"'/></channel></devices>", 1)
}

// Snapshots freeze the guest, and leave nothing when a step fails.
func TestSnapshotSteps(t *testing.T) {
	fail := rpc.Errorf(rpc.CodeAgent, "hook failed")
	for name, c := range map[string]struct {
		xml    string
		flags  int
		fails  rpc.Procedure
		code   rpc.Code // 0: it succeeds
		step   string
		frozen int
	}{
		"agent":            {agentXML("connected"), snapDiskOnly, 0, 0, "", 1},
		"no agent":         {domainXML, snapDiskOnly, 0, 0, "", 0},
		"asleep agent":     {agentXML("disconnected"), snapDiskOnly, 0, 0, "", 0},
		"freeze fails":     {agentXML("connected"), snapDiskOnly, rpc.DomainFSFreeze, rpc.CodeAgent, "freeze", 1},
		"quiesce required": {domainXML, snapDiskOnly | snapQuiesce, rpc.DomainFSFreeze, rpc.CodeAgent, "freeze", 1},
		"thaw fails":       {agentXML("connected"), snapDiskOnly, rpc.DomainFSThaw, rpc.CodeAgent, "thaw", 1},
		"list fails":       {agentXML("connected"), snapDiskOnly, rpc.DomainSnapshotCreateXML, rpc.CodeFailed, "list", 1},
		"memory":           {domainXML, 0, 0, rpc.CodeConfig, "--disk-only", 0},
		"a file is named":  {domainXML, snapDiskOnly, 0, rpc.CodeConfig, "name no file", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := behind(t)
			cl := w.dial("").open()
			cl.must(rpc.DomainDefineXML, c.xml)
			if c.fails != 0 {
				d.fail(c.fails, fail)
			}
			asked := "<domainsnapshot><name>s</name></domainsnapshot>"
			if name == "a file is named" { // and was ignored
				asked = "<domainsnapshot><name>s</name><disks><disk name='vda' snapshot='external'><source file='/f'/></disk></disks></domainsnapshot>"
			}
			_, err := cl.call(rpc.DomainSnapshotCreateXML, "vm", noUUID, 7, asked, c.flags)
			switch {
			case c.code == 0 && err != nil:
				t.Fatal(err)
			case c.code != 0 && (err == nil || err.Code != c.code || !strings.Contains(err.Error(), c.step)):
				t.Fatalf("error %v, want one that says %q", err, c.step)
			}
			if n, m := d.saw(rpc.DomainFSFreeze), d.saw(rpc.DomainFSThaw); n != c.frozen || m != c.frozen {
				t.Errorf("%d freezes, %d thaws, want %d", n, m, c.frozen)
			}
			v, ferr := w.cluster.Find(t.Context(), "p/v")
			if ferr != nil || (len(v.Snapshots) == 1) != (c.code == 0) {
				t.Errorf("snapshots %v (%v)", v.Snapshots, ferr)
			}
		})
	}
}

// lostAnswers takes snapshots, and nobody hears of it.
type lostAnswers struct{ VDISnapshots }

func (l lostAnswers) Snapshot(ctx context.Context, vdi, tag string) error {
	_ = l.VDISnapshots.Snapshot(ctx, vdi, tag)
	return fmt.Errorf("%w: no answer", sheepdog.ErrUnreachable)
}

// A snapshot whose answer was lost was left, though the error said that nothing is. And
// when the whole time was over, one that the VDI had already was deleted in its place.
func TestSnapshotWithoutAnAnswerLeavesWhatWasThere(t *testing.T) {
	w, _ := behind(t)
	w.srv.cfg.Snapshots = lostAnswers{w.cluster}
	cl := w.dial("").open()
	cl.must(rpc.DomainDefineXML, domainXML)
	take := func() *rpc.Error {
		_, err := cl.call(rpc.DomainSnapshotCreateXML, "vm", noUUID, 7, "<domainsnapshot><name>s</name></domainsnapshot>", snapDiskOnly)
		return err
	}
	if err := take(); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("error %v", err)
	}
	if v, err := w.cluster.Find(t.Context(), "p/v"); err != nil || len(v.Snapshots) != 0 {
		t.Errorf("snapshots %v (%v)", v.Snapshots, err)
	}
	if err := w.cluster.Snapshot(t.Context(), "p/v", "s"); err != nil {
		t.Fatal(err)
	}
	if err := take(); err == nil || !strings.Contains(err.Error(), "has a snapshot s already") {
		t.Errorf("error %v", err)
	}
	if v, err := w.cluster.Find(t.Context(), "p/v"); err != nil || len(v.Snapshots) != 1 {
		t.Errorf("snapshots %v (%v)", v.Snapshots, err)
	}
}

// An agent that hangs in a freeze does it when it comes back, long after the
// snapshot was given up: the guest stayed frozen for ever. And its late reply went
// to the client, which hung up on it.
func TestGuestIsThawedWhenAHangingAgentComesBack(t *testing.T) {
	w, d := behind(t)
	w.srv.bounds = bounds{freeze: 50 * time.Millisecond, thaw: 50 * time.Millisecond, again: 20 * time.Millisecond}
	cl := w.dial("").open()
	cl.must(rpc.DomainDefineXML, agentXML("connected"))
	back := make(chan struct{})
	d.mu.Lock()
	d.hold[rpc.DomainFSFreeze], d.hold[rpc.DomainFSThaw] = back, back
	d.mu.Unlock()
	_, err := cl.call(rpc.DomainSnapshotCreateXML, "vm", noUUID, 7, "<domainsnapshot><name>s</name></domainsnapshot>", snapDiskOnly)
	if err == nil || err.Code != rpc.CodeAgent || !strings.Contains(err.Error(), "freeze") {
		t.Fatalf("a hanging agent: %v", err)
	}
	if v, _ := w.cluster.Find(t.Context(), "p/v"); len(v.Snapshots) != 0 {
		t.Errorf("snapshots %v", v.Snapshots)
	}
	d.mu.Lock()
	d.hold = map[rpc.Procedure]chan struct{}{}
	late := len(d.calls)
	d.mu.Unlock()
	close(back)
	for range 1000 {
		d.mu.Lock()
		thawed := slices.Contains(d.calls[late:], rpc.DomainFSThaw)
		d.mu.Unlock()
		if thawed {
			cl.must(rpc.ConnectHostname) // the connection is as good as before
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("nobody thaws the guest")
}

func TestSnapshotIsDeletedAndReverted(t *testing.T) {
	w, d := behind(t)
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, domainXML)
	c.must(rpc.DomainSnapshotCreateXML, "vm", noUUID, -1, "<domainsnapshot><name>12</name></domainsnapshot>", 0)
	if v, _ := w.cluster.Find(t.Context(), "p/v"); strings.Join(v.Snapshots, " ") != "libvirt-12" {
		t.Errorf("snapshots %v", v.Snapshots)
	}
	if err := w.cluster.Write(t.Context(), "p/v", 0, strings.NewReader("later")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.call(rpc.DomainSnapshotRevert, "12", "vm", noUUID, 7, 0); err == nil || err.Code != rpc.CodeInvalid {
		t.Errorf("a running domain is reverted: %v", err)
	}
	c.must(rpc.DomainSnapshotRevert, "12", "vm", noUUID, -1, 0)
	if b := w.cluster.Bytes("p/v"); b[0] != 0 {
		t.Error("the volume was not rolled back")
	}
	c.must(rpc.DomainSnapshotDelete, "12", "vm", noUUID, -1, 0)
	if v, _ := w.cluster.Find(t.Context(), "p/v"); len(v.Snapshots) != 0 || d.saw(rpc.DomainSnapshotDelete) != 1 {
		t.Errorf("snapshots %v", v.Snapshots)
	}
}

// A domain is not started without its volumes, and none is attached that is not
// there: libvirt's code for a missing volume, and its name, come before QEMU is.
func TestStartNeedsTheVolumes(t *testing.T) {
	w, d := behind(t)
	r := w.dial("")
	r.must(rpc.ConnectOpen, null{}, uint32(0))
	text := func(volume string) string {
		return "<domain><devices><disk type='volume' device='cdrom'><source pool='p' volume='" + volume + "'/><target dev='sda'/><readonly/></disk></devices></domain>"
	}
	start := map[string]func() *rpc.Error{
		"define and create": func() *rpc.Error { _, err := r.call(rpc.DomainCreate, "vm", noUUID, -1); return err },
		"with flags":        func() *rpc.Error { _, err := r.call(rpc.DomainCreateFlags, "vm", noUUID, -1, uint32(0)); return err },
		"createXML":         func() *rpc.Error { _, err := r.call(rpc.DomainCreateXML, text("gone"), uint32(0)); return err },
	}
	device := "<disk type='volume' device='cdrom'><source pool='p' volume='gone'/><target dev='sda'/></disk>"
	for p, impact := range map[rpc.Procedure]uint32{rpc.DomainAttachDeviceFlags: affectLive, rpc.DomainUpdateDeviceFlags: affectLive | affectConfig} {
		start["device, "+fmt.Sprint(p)] = func() *rpc.Error { _, err := r.call(p, "vm", noUUID, 7, device, impact); return err }
	}
	start["attach"] = func() *rpc.Error { _, err := r.call(rpc.DomainAttachDevice, "vm", noUUID, 7, device); return err }
	r.must(rpc.DomainAttachDeviceFlags, "vm", noUUID, -1, device, uint32(0)) // is only written down
	r.must(rpc.DomainAttachDeviceFlags, "vm", noUUID, 7, device, uint32(affectConfig))
	r.must(rpc.DomainDefineXML, text("gone"))
	for how, f := range start {
		err := f()
		if err == nil || err.Code != rpc.CodeNoVolume || !strings.Contains(err.Text, "'sda'") || !strings.Contains(err.Text, "'p/gone'") {
			t.Errorf("%s: %v", how, err)
		}
	}
	if n := d.saw(rpc.DomainCreate) + d.saw(rpc.DomainCreateFlags) + d.saw(rpc.DomainCreateXML) + d.saw(rpc.DomainAttachDevice); n != 0 {
		t.Errorf("%d starts reached libvirtd", n)
	}
	w.cluster.Fail(sheepdog.ErrUnreachable)
	if err := start["with flags"](); err == nil || err.Code == rpc.CodeNoVolume {
		t.Errorf("without the cluster: %v", err)
	}
	w.cluster.Fail(nil)
	if err := w.cluster.Create(t.Context(), "p/gone", 4096); err != nil {
		t.Fatal(err)
	}
	for how, f := range start {
		if err := f(); err != nil {
			t.Errorf("%s, with the volume: %v", how, err)
		}
	}
	for _, p := range []rpc.Procedure{rpc.DomainCreate, rpc.DomainCreateFlags, rpc.DomainCreateXML} {
		if n := d.saw(p); n != 1 {
			t.Errorf("procedure %d reached libvirtd %d times", p, n)
		}
	}
	r.must(rpc.DomainDefineXML, "<domain><devices><disk type='file'><source file='/x'/><target dev='vda'/></disk></devices></domain>")
	r.must(rpc.DomainCreate, "vm", noUUID, -1) // of which no disk is ours
}
