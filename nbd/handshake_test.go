package nbd

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOptions is a table of single options and the type of their last reply.
func TestOptions(t *testing.T) {
	long := strings.Repeat("x", maxString+1)
	for _, tt := range []struct {
		name       string
		id         uint32
		payload    []byte
		structured bool
		want       uint32
		text       string // in the error
	}{
		{"info", optInfo, exportPayload("disk"), false, repAck, ""},
		{"info unknown", optInfo, exportPayload("other"), false, repErrUnknown, "no such export"},
		{"info empty", optInfo, nil, false, repErrInvalid, "ends early"},
		{"info count too large", optInfo, append(exportPayload("disk")[:8], 0, 9), false, repErrInvalid, "9 kinds"},
		{"info trailing byte", optInfo, append(exportPayload("disk"), 0), false, repErrInvalid, "1 bytes follow"},
		{"info name longer than payload", optInfo, []byte{0, 0, 1, 0, 'a', 'b'}, false, repErrInvalid, "ends early"},
		{"info name too long", optInfo, exportPayload(long), false, repErrInvalid, "4097"},
		{"info name not UTF-8", optInfo, exportPayload("\xff"), false, repErrInvalid, "UTF-8"},
		{"info name with NUL", optInfo, exportPayload("a\x00b"), false, repErrInvalid, "NUL"},
		{"go unknown", optGo, exportPayload("other"), false, repErrUnknown, "other"},
		{"go refused", optGo, exportPayload("secret"), false, repErrPolicy, "not for you"},
		{"go stopping", optGo, exportPayload("stopping"), false, repErrShutdown, ""},
		{"go broken", optGo, exportPayload("broken"), false, repErrPolicy, "disk on fire"},
		{"list", optList, nil, false, repAck, ""},
		{"list with payload", optList, []byte{1}, false, repErrInvalid, ""},
		{"starttls", optStartTLS, nil, false, repErrUnsup, "TLS"},
		{"extended headers", optExtendedHeaders, nil, false, repErrUnsup, ""},
		{"peek export", 4, nil, false, repErrUnsup, ""},
		{"unknown", 4711, []byte("hello"), false, repErrUnsup, "4711"},
		{"structured reply", optStructuredReply, nil, false, repAck, ""},
		{"structured reply twice", optStructuredReply, nil, true, repAck, ""},
		{"structured reply with payload", optStructuredReply, []byte{0}, false, repErrInvalid, ""},
		{"set meta before structured", optSetMetaContext, metaPayload("disk", allocationContext), false, repErrInvalid, "structured"},
		{"list meta before structured", optListMetaContext, metaPayload("disk"), false, repErrInvalid, "structured"},
		{"set meta", optSetMetaContext, metaPayload("disk", allocationContext), true, repAck, ""},
		{"set meta unknown export", optSetMetaContext, metaPayload("other", allocationContext), true, repErrUnknown, ""},
		{"set meta count too large", optSetMetaContext, append(metaPayload("disk")[:8], 255, 255, 255, 255), true, repErrInvalid, "early"},
		{"set meta query too long", optSetMetaContext, metaPayload("disk", long), true, repErrInvalid, "4097"},
		{"set meta trailing", optSetMetaContext, append(metaPayload("disk"), 1), true, repErrInvalid, "too many"},
		{"too big", optInfo, make([]byte, 64<<10+1), false, repErrTooBig, "65537"},
		{"too big, unknown", 99, make([]byte, 1<<20), false, repErrTooBig, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, newMemDevice(4096))
			g.exports.openErr = map[string]error{
				"secret":   fmt.Errorf("not for you: %w", ErrPolicy),
				"stopping": ErrShutdown,
				"broken":   fmt.Errorf("disk on fire"),
			}
			c := g.hello()
			if tt.structured {
				c.mustOption(optStructuredReply, nil)
			}
			all := c.option(tt.id, tt.payload)
			last := all[len(all)-1]
			if last.typ != tt.want || !strings.Contains(string(last.data), tt.text) {
				t.Fatalf("reply %#x %q, want %#x %q", last.typ, last.data, tt.want, tt.text)
			}
			if last.typ == repAck && len(last.data) != 0 {
				t.Errorf("acknowledgement with %d bytes", len(last.data))
			}
			c.mustOption(optAbort, nil) // the stream is in step
			c.ended()
		})
	}
}

func TestInfoTellsEverything(t *testing.T) {
	dev := newMemDevice(12345)
	dev.block = 4 << 20
	c := newRig(t, dev).hello()
	c.mustOption(optStructuredReply, nil)
	got := map[uint16]string{}
	for _, r := range c.mustOption(optInfo, exportPayload("disk", infoName, infoDescription, infoBlockSize, 77)) {
		if r.typ == repInfo {
			got[binary.BigEndian.Uint16(r.data)] = string(r.data[2:])
		}
	}
	flags := hasFlags | sendFlush | sendFUA | sendTrim | sendWriteZeroes | sendDF | canMultiConn | sendCache | sendFastZero
	want := map[uint16]string{
		infoExport:      "\x00\x00\x00\x00\x00\x00\x30\x39" + string(binary.BigEndian.AppendUint16(nil, flags)),
		infoBlockSize:   "\x00\x00\x00\x01" + "\x00\x40\x00\x00" + "\x04\x00\x00\x00",
		infoName:        "disk",
		infoDescription: "a disk in memory",
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("info %d is %q, want %q", k, got[k], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d kinds of information, want %d", len(got), len(want))
	}
}

func TestReadOnlyFlags(t *testing.T) {
	dev := newMemDevice(4096)
	dev.readOnly = true
	c := newRig(t, dev).connect("disk", false)
	if c.flags&isReadOnly == 0 || c.flags&(sendTrim|sendWriteZeroes|sendFastZero|sendDF) != 0 {
		t.Errorf("flags are %#x", c.flags)
	}
}

func TestListNames(t *testing.T) {
	g := newRig(t, newMemDevice(4096))
	g.exports.names = []string{"a", strings.Repeat("too long", 1000), "", "ü@snap"}
	var got []string
	for _, r := range g.hello().mustOption(optList, nil) {
		if r.typ == repServer {
			if int(binary.BigEndian.Uint32(r.data)) != len(r.data)-4 {
				t.Errorf("length in %q", r.data)
			}
			got = append(got, string(r.data[4:]))
		}
	}
	if want := []string{"a", "", "ü@snap"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}

func TestMetaContexts(t *testing.T) {
	for _, tt := range []struct {
		opt     uint32
		queries []string
		found   bool
	}{
		{optSetMetaContext, []string{allocationContext}, true},
		{optSetMetaContext, []string{"qemu:dirty-bitmap:x", allocationContext}, true},
		{optSetMetaContext, []string{"base:"}, false},
		{optSetMetaContext, []string{"other:thing"}, false},
		{optSetMetaContext, nil, false},
		{optListMetaContext, nil, true},
		{optListMetaContext, []string{"base:"}, true},
		{optListMetaContext, []string{allocationContext}, true},
		{optListMetaContext, []string{"qemu:"}, false},
	} {
		c := newRig(t, newMemDevice(4096)).hello()
		c.mustOption(optStructuredReply, nil)
		all := c.mustOption(tt.opt, metaPayload("disk", tt.queries...))
		if found := len(all) == 2 && string(all[0].data[4:]) == allocationContext; found != tt.found {
			t.Errorf("option %d %q: found is %v", tt.opt, tt.queries, found)
		}
	}
}

// A selection holds for the export it names, and the last one counts.
func TestMetaContextOfOtherExport(t *testing.T) {
	g := newRig(t, newMemDevice(8192))
	g.exports.devices["other"] = newMemDevice(4096)
	for _, tt := range []struct {
		selections []string
		works      bool
	}{{[]string{"disk"}, true}, {[]string{"other"}, false}, {[]string{"disk", "other"}, false}, {[]string{"other", "disk"}, true}} {
		c := g.hello()
		c.mustOption(optStructuredReply, nil)
		c.structured = true
		for _, name := range tt.selections {
			c.mustOption(optSetMetaContext, metaPayload(name, allocationContext))
		}
		c.attach("disk")
		if a := c.do(header{cmd: cmdBlockStatus, length: 4096}, nil); (a.errno == 0) != tt.works {
			t.Errorf("selected %q: errno %d %s", tt.selections, a.errno, a.text)
		}
		c.send(header{cmd: cmdDisc}, nil)
		c.ended()
	}
}

// Asking about an export and attaching to it opens it once.
func TestOneOpenPerHandshake(t *testing.T) {
	g := newRig(t, newMemDevice(4096))
	c := g.hello()
	c.mustOption(optInfo, exportPayload("disk"))
	c.mustOption(optStructuredReply, nil)
	c.structured = true
	c.mustOption(optSetMetaContext, metaPayload("disk", allocationContext))
	c.attach("disk")
	if n := g.exports.opened.Load(); n != 1 {
		t.Errorf("opened %d times", n)
	}
}

func TestExportName(t *testing.T) {
	for _, tt := range []struct {
		flags byte
		size  int
	}{{3, 10}, {1, 134}, {0, 134}} {
		g := newRig(t, newMemDevice(4096))
		nc := g.dial()
		hello := append([]byte{0, 0, 0, tt.flags}, optionBytes(optExportName, []byte("disk"))...)
		nc.Write(append(hello, requestBytes(header{cmd: cmdDisc}, nil)...))
		all, err := io.ReadAll(nc)
		if err != nil || len(all) != 18+tt.size {
			t.Fatalf("flags %d: %d bytes, want %d; err %v", tt.flags, len(all), 18+tt.size, err)
		}
		if binary.BigEndian.Uint64(all[18:]) != 4096 || binary.BigEndian.Uint16(all[26:])&hasFlags == 0 {
			t.Errorf("flags %d: answer %x", tt.flags, all[18:])
		}
	}
}

// What is beyond repair ends the connection without an answer.
func TestHandshakeEnds(t *testing.T) {
	for name, send := range map[string][]byte{
		"unknown client flags":  {0, 0, 0, 4},
		"option magic":          append([]byte{0, 0, 0, 3}, make([]byte, 16)...),
		"http":                  []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"export name unknown":   append([]byte{0, 0, 0, 3}, optionBytes(optExportName, []byte("other"))...),
		"export name not UTF-8": append([]byte{0, 0, 0, 3}, optionBytes(optExportName, []byte{0xff})...),
		"export name too long":  append([]byte{0, 0, 0, 3}, optionBytes(optExportName, make([]byte, maxString+1))...),
		"huge option":           append([]byte{0, 0, 0, 3}, "IHAVEOPT\x00\x00\x00\x03\xff\xff\xff\xff"...),
	} {
		t.Run(name, func(t *testing.T) {
			nc := newRig(t, newMemDevice(4096)).dial()
			nc.Write(send)
			all, err := io.ReadAll(nc)
			if ne, ok := err.(interface{ Timeout() bool }); len(all) > 18 || ok && ne.Timeout() {
				t.Errorf("%d bytes more than the greeting, err %v", len(all)-18, err)
			}
		})
	}
}

func TestOptionFlood(t *testing.T) {
	c := newRig(t, newMemDevice(4096), func(c *Config) { c.MaxOptions = 8 }).hello()
	for range 8 {
		c.option(999, nil)
	}
	c.ended()
}

// Open may wait longer than a handshake may take, but not longer than its own
// limit.
func TestOpenWaits(t *testing.T) {
	g := newRig(t, newMemDevice(4096), func(c *Config) {
		c.HandshakeTimeout, c.OpenTimeout = time.Second, 1200*time.Millisecond
	})
	g.exports.opening = func(ctx context.Context) error {
		<-ctx.Done()
		return fmt.Errorf("no quorum: %w", ctx.Err())
	}
	c := g.hello()
	all := c.option(optGo, exportPayload("disk"))
	if last := all[len(all)-1]; last.typ != repErrShutdown || !strings.Contains(string(last.data), "no quorum") {
		t.Errorf("reply %#x %q", last.typ, last.data)
	}
	c.mustOption(optAbort, nil)
}

// A client that leaves while its export is being opened ends the opening.
func TestHangUpDuringOpen(t *testing.T) {
	g := newRig(t, newMemDevice(4096))
	opening, ended := make(chan struct{}), make(chan struct{})
	g.exports.opening = func(ctx context.Context) error {
		close(opening)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	c := g.hello()
	c.write(optionBytes(optGo, exportPayload("disk")))
	<-opening
	c.nc.Close()
	<-ended
}

func TestTooManyConnections(t *testing.T) {
	g := newRig(t, newMemDevice(4096), func(c *Config) { c.MaxConnections = 1 })
	first := g.connect("disk", false)
	if attached, most := g.server.Clients(); attached != 1 || most != 1 {
		t.Errorf("%d of %d clients", attached, most)
	}
	c := g.hello()
	all := c.option(optGo, exportPayload("disk"))
	if last := all[len(all)-1]; last.typ != repErrPolicy || !strings.Contains(string(last.data), "too many") {
		t.Errorf("reply %#x %q", last.typ, last.data)
	}
	first.send(header{cmd: cmdDisc}, nil)
	first.ended()
	eventually(t, "the place is free again", func() bool {
		all := c.option(optGo, exportPayload("disk"))
		return all[len(all)-1].typ == repAck
	})
}

func TestConfigIsChecked(t *testing.T) {
	e := &memExports{}
	for name, cfg := range map[string]Config{
		"no exports":      {},
		"negative":        {Exports: e, MaxRequests: -1},
		"not a power":     {Exports: e, MaxRequestBytes: 100 << 10},
		"too large":       {Exports: e, MaxRequestBytes: 128 << 20},
		"shared too few":  {Exports: e, SharedBytes: 1 << 20},
		"options too few": {Exports: e, MaxOptionBytes: 100},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "Config.") {
			t.Errorf("%s: err is %v", name, err)
		}
	}
	if _, err := New(Config{Exports: e}); err != nil {
		t.Error(err)
	}
}
