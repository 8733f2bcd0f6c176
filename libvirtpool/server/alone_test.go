package server

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
)

func (r *raw) open() *raw {
	r.t.Helper()
	r.must(rpc.AuthList)
	r.must(rpc.ConnectOpen, optional("storage:///system"), 0)
	return r
}

var noUUID rpc.UUID

func TestOpenAndClose(t *testing.T) {
	w := start(t, nil)
	c := w.dial("")
	if d := c.must(rpc.AuthList); d.Uint32() != 1 || d.Uint32() != 0 {
		t.Error("authentication is asked for")
	}
	c.must(rpc.ConnectOpen, optional("storage:///system"), 0)
	for f, want := range map[int]int32{8: 0, 9: 1, 10: 1, 14: 1, 15: 1, 99: 0} {
		if got := c.must(rpc.ConnectFeature, f).Int32(); got != want {
			t.Errorf("feature %d: %d", f, got)
		}
	}
	if s := c.must(rpc.ConnectType).String(); s != "storage" {
		t.Error(s)
	}
	if s := c.must(rpc.ConnectHostname).String(); s == "" {
		t.Error("no host name")
	}
	if c.must(rpc.ConnectSecure).Int32() != 1 || c.must(rpc.ConnectLibVersion).Uint64() < 9_000_000 {
		t.Error("secure or version")
	}
	c.must(rpc.CloseCallbackAdd)
	// What a storage driver has not keeps the client alive.
	if _, err := c.call(rpc.DomainCreateXML, "<domain/>", 0); err == nil || err.Code != rpc.CodeNoSupport {
		t.Errorf("a domain: %v", err)
	}
	c.must(rpc.ConnectClose)
	if _, err := rpc.ReadMessage(c.conn); err == nil {
		t.Error("the connection stays open")
	}
}

func TestKeepalive(t *testing.T) {
	c := start(t, nil).dial("")
	h := rpc.Header{Program: rpc.ProgramKeepalive, Version: 1, Procedure: 1, Type: rpc.Event}
	if _, err := rpc.NewMessage(h, nil).WriteTo(c.conn); err != nil {
		t.Fatal(err)
	}
	if m := c.read(); m.Program != rpc.ProgramKeepalive || uint32(m.Procedure) != rpc.KeepalivePong {
		t.Errorf("answer %+v", m.Header)
	}
}

// Uploads in pieces of 250 KiB, each a stream of its own at its offset, as
// CoreCluster sends them, and in one.
func TestUpload(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 3<<20)
	c := w.dial("").open()
	data := pattern(1_000_000)
	upload := func(off, n int, pieces [][]byte) {
		serial := c.begin(rpc.VolumeUpload, "p", "v", "p/v", uint64(off), uint64(n), 0)
		if m := c.read(); m.Status != rpc.OK || m.Type != rpc.Reply {
			t.Fatalf("upload: %+v", m.Header)
		}
		h := rpc.Header{Procedure: rpc.VolumeUpload, Type: rpc.Stream, Serial: serial, Status: rpc.Continue}
		for _, p := range pieces {
			c.send(h, p)
		}
		h.Status = rpc.OK
		c.send(h, nil)
		if m := c.read(); m.Type != rpc.Stream || m.Status != rpc.OK || m.Serial != serial {
			t.Fatalf("end of upload: %+v %v", m.Header, rpc.DecodeError(m.Payload()))
		}
	}
	for off := 0; off < len(data); off += 250 << 10 {
		piece := data[off:min(off+250<<10, len(data))]
		upload(off, len(piece), [][]byte{piece})
	}
	upload(2<<20+1, 0, [][]byte{data[:262120], data[262120:262121], data[262121:400000]})
	want := make([]byte, 3<<20)
	copy(want, data)
	copy(want[2<<20+1:], data[:400000])
	if !bytes.Equal(w.cluster.Bytes("p/v"), want) {
		t.Error("the volume does not hold what was uploaded")
	}
}

func TestUploadFailsClearly(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<20)
	c := w.dial("").open()
	if _, err := c.call(rpc.VolumeUpload, "p", "v", "", uint64(2<<20), uint64(0), 0); err == nil || err.Code != rpc.CodeInvalidArg {
		t.Errorf("beyond the end: %v", err)
	}
	for name, limit := range map[string]uint64{"more than the volume has room for": 0, "more than announced": 10} {
		serial := c.begin(rpc.VolumeUpload, "p", "v", "", uint64(0), limit, 0)
		c.read()
		h := rpc.Header{Procedure: rpc.VolumeUpload, Type: rpc.Stream, Serial: serial, Status: rpc.Continue}
		for range 6 {
			c.send(h, pattern(250<<10))
		}
		h.Status = rpc.OK
		c.send(h, nil)
		m := c.read()
		if e := rpc.DecodeError(m.Payload()); m.Type != rpc.Stream || m.Status != rpc.Failed || e.Code != rpc.CodeInvalidArg {
			t.Errorf("%s: %+v %v", name, m.Header, e)
		}
		if got := w.cluster.Bytes("p/v"); limit > 0 && !bytes.Equal(got[:11], append(pattern(10), 0)) {
			t.Errorf("%s: the volume begins with %q", name, got[:20])
		}
		if err := w.cluster.Write(t.Context(), "p/v", 0, bytes.NewReader(make([]byte, 1<<20))); err != nil {
			t.Fatal(err)
		}
	}
	serial := c.begin(rpc.VolumeDownload, "p", "v", "", uint64(1<<20-5), uint64(100), 0)
	c.read()
	if data, _ := c.stream(serial); len(data) != 5 {
		t.Errorf("a download over the end has %d bytes", len(data))
	}
	c.must(rpc.PoolIsActive, "p", noUUID) // the connection is as good as before
}

// Two clients write one volume at once, each a half of it.
func TestTwoClientsOnOneVolume(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 4<<20)
	var wg sync.WaitGroup
	for half := range 2 {
		c := w.dial("").open()
		serial := c.begin(rpc.VolumeUpload, "p", "v", "", uint64(half)<<21, uint64(2<<20), 0)
		c.read()
		wg.Go(func() {
			h := rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: rpc.VolumeUpload, Type: rpc.Stream, Serial: serial, Status: rpc.Continue}
			for off := 0; off < 2<<20; off += 128 << 10 {
				if _, err := rpc.NewMessage(h, bytes.Repeat([]byte{byte(half + 1)}, 128<<10)).WriteTo(c.conn); err != nil {
					t.Error(err)
					return
				}
			}
			h.Status = rpc.OK
			_, _ = rpc.NewMessage(h, nil).WriteTo(c.conn)
			if m, err := rpc.ReadMessage(c.conn); err != nil || m.Status != rpc.OK {
				t.Errorf("half %d: %v", half, err)
			}
		})
	}
	wg.Wait()
	if got := w.cluster.Bytes("p/v"); !bytes.Equal(got, append(bytes.Repeat([]byte{1}, 2<<20), bytes.Repeat([]byte{2}, 2<<20)...)) {
		t.Error("the halves do not hold what each client wrote")
	}
}

func TestSparseStreams(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<20)
	c := w.dial("").open()
	serial := c.begin(rpc.VolumeUpload, "p", "v", "", uint64(0), uint64(0), streamSparse)
	c.read()
	head := rpc.Header{Procedure: rpc.VolumeUpload, Type: rpc.Stream, Serial: serial, Status: rpc.Continue}
	hole := head
	hole.Type = rpc.StreamHole
	c.send(hole, encode(uint64(300_000), 0))
	c.send(head, pattern(1000))
	c.send(hole, encode(uint64(1<<20-301_000), 0))
	head.Status = rpc.OK
	c.send(head, nil)
	if m := c.read(); m.Status != rpc.OK {
		t.Fatalf("%+v %v", m.Header, rpc.DecodeError(m.Payload()))
	}
	want := make([]byte, 1<<20)
	copy(want[300_000:], pattern(1000))
	for flags, holey := range map[int]bool{0: false, streamSparse: true} {
		serial := c.begin(rpc.VolumeDownload, "p", "v", "", uint64(0), uint64(0), flags)
		c.read()
		data, holes := c.stream(serial)
		if !bytes.Equal(data, want) || (holes > 500_000) != holey {
			t.Errorf("flags %d: %d bytes, of them %d in holes; equal %t", flags, len(data), holes, bytes.Equal(data, want))
		}
	}
	serial = c.begin(rpc.VolumeDownload, "p", "v", "", uint64(300_001), uint64(500), 0)
	c.read()
	if data, _ := c.stream(serial); !bytes.Equal(data, pattern(1000)[1:501]) {
		t.Error("a part of the volume differs")
	}
}

func TestAbortedStreams(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 8<<20)
	c := w.dial("").open()
	for _, p := range []rpc.Procedure{rpc.VolumeUpload, rpc.VolumeDownload} {
		serial := c.begin(p, "p", "v", "", uint64(0), uint64(0), 0)
		c.read() // as libvirt's clients: no stream before the reply
		c.send(rpc.Header{Procedure: p, Type: rpc.Stream, Serial: serial, Status: rpc.Failed}, nil)
		for {
			m := c.read()
			if m.Type == rpc.Stream && m.Status == rpc.OK {
				break // confirmed, after data that were on their way
			}
			if m.Status == rpc.Failed {
				t.Fatalf("procedure %d: %v", p, rpc.DecodeError(m.Payload()))
			}
			if m.Type == rpc.Stream && len(m.Payload()) == 0 {
				c.send(rpc.Header{Procedure: p, Type: rpc.Stream, Serial: serial, Status: rpc.OK}, nil)
			}
		}
	}
	c.must(rpc.PoolIsActive, "p", noUUID)
}

// An upload that was aborted at once failed, when the abort came while the volume
// was looked up.
func TestAbortDuringSetUpIsNoFailure(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 8<<20)
	c := w.dial("").open()
	for range 50 {
		serial := c.begin(rpc.VolumeUpload, "p", "v", "", uint64(0), uint64(0), 0)
		if m := c.read(); m.Status != rpc.OK {
			t.Fatalf("%+v", m.Header)
		}
		c.send(rpc.Header{Procedure: rpc.VolumeUpload, Type: rpc.Stream, Serial: serial, Status: rpc.Failed}, nil)
		if m := c.read(); m.Type != rpc.Stream || m.Status != rpc.OK {
			t.Fatalf("%+v %v", m.Header, rpc.DecodeError(m.Payload()))
		}
	}
}

// A client that dies in mid-stream, in mid-message or with calls in progress
// leaves nothing: goleak and the end of the test say so.
func TestClientsDie(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 8<<20)
	for n := range 12 {
		c := w.dial("").open()
		switch n % 4 {
		case 0:
			serial := c.begin(rpc.VolumeUpload, "p", "v", "", uint64(0), uint64(0), 0)
			c.send(rpc.Header{Procedure: rpc.VolumeUpload, Type: rpc.Stream, Serial: serial, Status: rpc.Continue}, pattern(200_000))
		case 1:
			c.begin(rpc.VolumeDownload, "p", "v", "", uint64(0), uint64(0), 0)
			c.read()
		case 2:
			for range 50 {
				c.begin(rpc.PoolListAllVolumes, "p", noUUID, 1, 0)
			}
		case 3:
			_, _ = c.conn.Write([]byte{0, 0, 1, 0, 0x20, 0})
		}
		c.conn.Close()
	}
	w.dial("").open().must(rpc.PoolIsActive, "p", noUUID)
}

func TestMalformedCalls(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<20)
	for p := range storageVerbs() {
		c := w.dial("").open()
		for _, args := range [][]byte{nil, {1}, bytes.Repeat([]byte{0xff}, 64), encode("p"), encode("p", noUUID, "v")[:9]} {
			if v := storageVerbs()[p]; v.args(rpc.NewDecoder(args)).err == nil {
				continue // these are no wrong arguments for it
			}
			if _, err := c.call(p, args); err == nil || err.Code != rpc.CodeRPC {
				t.Errorf("procedure %d with % x: %v", p, args, err)
			}
		}
		c.must(rpc.PoolIsActive, "p", noUUID)
	}
	// Frames that cannot be: the connection ends, and no other one.
	for _, frame := range [][]byte{{0, 0, 0, 3, 0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, make([]byte, 64)} {
		c := w.dial("")
		_, _ = c.conn.Write(frame)
		if _, err := rpc.ReadMessage(c.conn); err == nil {
			t.Errorf("frame % x was answered", frame)
		}
	}
	w.dial("").open().must(rpc.PoolIsActive, "p", noUUID)
}

func TestReadOnlyIsReadOnly(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<20)
	clients := map[string]*raw{"socket": w.dial("-ro").open(), "flag": w.dial("")}
	clients["flag"].must(rpc.ConnectOpen, null{}, openReadOnly)
	for name, c := range clients {
		for p, v := range storageVerbs() {
			if !v.changes {
				continue
			}
			if _, err := c.call(p, bytes.Repeat([]byte{0}, 200)); err == nil || err.Code != rpc.CodeDenied {
				t.Errorf("%s: procedure %d: %v", name, p, err)
			}
		}
		if n := c.must(rpc.PoolNumVolumes, "p", noUUID).Int32(); n != 1 {
			t.Errorf("%s: %d volumes", name, n)
		}
	}
}

func TestEvents(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<20)
	w.pool("q", "v", 1<<20)
	c := w.dial("").open()
	p, err := w.driver.Lookup(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	all := c.must(rpc.PoolEventRegister, 0, 0).Int32()
	one := c.must(rpc.PoolEventRegister, 1, 1, "p", p.UUID).Int32()
	if _, err := c.call(rpc.PoolEventRegister, 7, 0); err == nil {
		t.Error("an event that does not exist")
	}
	other := w.dial("").open()
	other.must(rpc.PoolRefresh, "q", noUUID, 0) // not p's
	other.must(rpc.PoolRefresh, "p", noUUID, 0)
	other.must(rpc.PoolDestroy, "p", noUUID)
	m := c.read()
	if d := rpc.NewDecoder(m.Payload()); m.Procedure != rpc.PoolEventRefresh || m.Type != rpc.Event || d.Int32() != one || d.String() != "p" {
		t.Errorf("first event %+v", m.Header)
	}
	m = c.read()
	d := rpc.NewDecoder(m.Payload())
	if id, name, u, what := d.Int32(), d.String(), d.UUID(), d.Int32(); m.Procedure != rpc.PoolEventLifecycle || id != all || name != "p" || u != p.UUID || what != 3 {
		t.Errorf("second event %+v: %d %s %d", m.Header, id, name, what)
	}
	c.must(rpc.PoolEventDeregister, int(all))
	if _, err := c.call(rpc.PoolEventDeregister, int(all)); err == nil {
		t.Error("deregistered twice")
	}
}

// Two hundred clients at once, each with several calls in flight.
func TestManyClients(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<20)
	var wg sync.WaitGroup
	for range 200 {
		c := w.dial("")
		wg.Go(func() {
			seen := map[uint32]bool{}
			for n := range uint32(20) {
				h := rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: rpc.VolumeInfo, Serial: n}
				if _, err := rpc.NewMessage(h, encode("p", "v", "")).WriteTo(c.conn); err != nil {
					t.Error(err)
					return
				}
			}
			for range 20 {
				m, err := rpc.ReadMessage(c.conn)
				if err != nil || m.Status != rpc.OK {
					t.Errorf("%v", err)
					return
				}
				seen[m.Serial] = true
			}
			if len(seen) != 20 {
				t.Errorf("%d calls were answered", len(seen))
			}
		})
	}
	wg.Wait()
}

func TestTooManyClients(t *testing.T) {
	w := start(t, func(c *Config) { c.MaxClients = 3 })
	for range 3 {
		w.dial("").open()
	}
	extra := w.dial("")
	if _, err := rpc.ReadMessage(extra.conn); err == nil {
		t.Error("a client above the limit was served")
	}
}

// A refresh or a list is one request to the cluster, whatever the number of volumes.
func TestRefreshIsOneRequest(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<10)
	for n := range 1000 {
		if err := w.cluster.Create(t.Context(), "p/"+string(rune('a'+n%26))+time.Duration(n).String(), 1); err != nil {
			t.Fatal(err)
		}
	}
	c := w.dial("").open()
	before := w.cluster.Lists()
	c.must(rpc.PoolRefresh, "p", noUUID, 0)
	if n := w.cluster.Lists() - before; n > 1 {
		t.Errorf("a refresh listed the VDIs %d times", n)
	}
	before = w.cluster.Lists()
	if n := c.must(rpc.PoolListAllVolumes, "p", noUUID, 1, 0).Uint32(); n != 1001 || w.cluster.Lists()-before != 1 {
		t.Errorf("%d volumes with %d lists", n, w.cluster.Lists()-before)
	}
}

func TestClusterErrorsReachTheClient(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 1<<10)
	c := w.dial("").open()
	w.cluster.Fail(sheepdog.ErrNoSpace)
	if _, err := c.call(rpc.VolumeCreateXML, "p", noUUID, "<volume><name>x</name><capacity>1</capacity></volume>", 0); err == nil || err.Code != rpc.CodeFailed {
		t.Errorf("no space: %v", err)
	}
}

// A pool was destroyed and another one has its name: who still holds the first
// does not change the second.
func TestStaleHandleDoesNotReachTheNextPool(t *testing.T) {
	w := start(t, nil)
	c := w.dial("").open()
	xml := func(id string) string {
		return "<pool type='sheepdog'><name>p</name><uuid>" + id + "</uuid></pool>"
	}
	d := c.must(rpc.PoolCreateXML, xml("11111111-1111-1111-1111-111111111111"), 0)
	_, old := d.String(), d.UUID()
	c.must(rpc.PoolDestroy, "p", old)
	d = c.must(rpc.PoolCreateXML, xml("22222222-1111-1111-1111-111111111111"), 0)
	_, now := d.String(), d.UUID()
	for _, p := range []rpc.Procedure{rpc.PoolDestroy, rpc.PoolInfo, rpc.PoolIsActive, rpc.PoolNumVolumes} {
		if _, err := c.call(p, "p", old); err == nil || err.Code != rpc.CodeNoPool {
			t.Errorf("procedure %d by the old handle: %v", p, err)
		}
	}
	if _, err := c.call(rpc.VolumeCreateXML, "p", old, "<volume><name>v</name><capacity>1</capacity></volume>", 0); err == nil || err.Code != rpc.CodeNoPool {
		t.Errorf("a volume by the old handle: %v", err)
	}
	if c.must(rpc.PoolIsActive, "p", now).Int32() != 1 || c.must(rpc.PoolNumVolumes, "p", now).Int32() != 0 {
		t.Error("the new pool was changed")
	}
}

// Flags that mean nothing here are refused, not ignored.
func TestUnknownFlagsAreRefused(t *testing.T) {
	w := start(t, nil)
	w.pool("p", "v", 8192)
	c := w.dial("").open()
	const odd = 1 << 20
	for p, args := range map[rpc.Procedure][]any{
		rpc.PoolRefresh:     {"p", noUUID, odd},
		rpc.PoolDefineXML:   {"<pool type='sheepdog'><name>q</name></pool>", odd},
		rpc.VolumeDelete:    {"p", "v", "p/v", odd},
		rpc.VolumeWipe:      {"p", "v", "p/v", odd},
		rpc.VolumeUpload:    {"p", "v", "p/v", uint64(0), uint64(0), odd},
		rpc.VolumeDownload:  {"p", "v", "p/v", uint64(0), uint64(0), odd},
		rpc.VolumeResize:    {"p", "v", "p/v", uint64(16384), odd},
		rpc.VolumeInfoFlags: {"p", "v", "p/v", odd},
	} {
		if _, err := c.call(p, args...); err == nil || err.Code != rpc.CodeInvalidArg || !strings.Contains(err.Text, "unsupported flags (0x100000)") {
			t.Errorf("procedure %d: %v", p, err)
		}
	}
	if got := c.must(rpc.PoolNumVolumes, "p", noUUID).Int32(); got != 1 {
		t.Errorf("%d volumes are left", got)
	}
}
