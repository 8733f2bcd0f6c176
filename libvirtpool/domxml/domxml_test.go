package domxml

import (
	"encoding/xml"
	"reflect"
	"strings"
	"testing"
)

// pools is a fixed set: pool -> name space.
type pools map[string]string

func (p pools) NamespaceOfPool(pool string) (string, bool) { s, ok := p[pool]; return s, ok }

func (p pools) PoolOfNamespace(space string) (string, bool) {
	for pool, s := range p {
		if s == space {
			return pool, true
		}
	}
	return "", false
}

func rewriter() Rewriter {
	return Rewriter{Socket: "/run/sheep/nbd.sock", Pools: pools{"images": "img", "rest": ""}}
}

const driver = `<driver name='qemu' type='raw' cache='none' error_policy='stop' rerror_policy='stop' discard='unmap'/>`

func domain(disk string) string {
	return "<?xml version='1.0'?>\n<!-- a comment with <disk> -->\n<domain type='kvm'>\n  <name>a &amp; b</name>\n  <devices>\n    " + disk +
		"\n    <interface type='network'/>\n  </devices>\n  <metadata><x:disk xmlns:x='u'/><devices><disk type='volume'><source pool='images' volume='v'/></disk></devices></metadata>\n</domain>\n"
}

func TestToNBD(t *testing.T) {
	nbd := func(name string) string {
		return `<source protocol='nbd' name='` + name + `'><host transport='unix' socket='/run/sheep/nbd.sock'/></source>`
	}
	for name, c := range map[string]struct{ in, out string }{
		"volume": {`<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/><source pool='images' volume='vm1'/><target dev='vda'/></disk>`,
			`<disk type='network' device='disk'>` + driver + nbd("img/vm1") + `<target dev='vda'/></disk>`},
		"no driver": {`<disk type="volume"><source pool="rest" volume="vm1" mode="host"/><target dev="vda"/></disk>`,
			`<disk type='network'>` + driver + nbd("vm1") + `<target dev='vda'/></disk>`},
		"sheepdog protocol": {`<disk type='network' device='disk'><source protocol='sheepdog' name='img/vm1'><host name='h' port='7000'/></source><target dev='vda'/></disk>`,
			`<disk type='network' device='disk'>` + driver + nbd("img/vm1") + `<target dev='vda'/></disk>`},
		"the user's own choices": {`<disk type='volume'><driver type='raw' cache='writeback' discard='ignore' error_policy='report' rerror_policy='report' iothread='1'/><source pool='images' volume='v'/></disk>`,
			`<disk type='network'><driver type='raw' cache='writeback' discard='ignore' error_policy='report' rerror_policy='report' iothread='1' name='qemu'/>` + nbd("img/v") + `</disk>`},
		"awkward names": {`<disk type='volume'><driver name='qemu' type='raw' cache='none' error_policy='stop' rerror_policy='stop' discard='unmap'/><source pool='images' volume='a&apos;b &lt;&quot;'/></disk>`,
			`<disk type='network'>` + driver + nbd(`img/a&apos;b &lt;"`) + `</disk>`},
		"cdrom": {`<disk type='volume' device='cdrom'><source pool='images' volume='iso'/><readonly/></disk>`,
			`<disk type='network' device='cdrom'><driver name='qemu' type='raw' cache='none'/>` + nbd("img/iso") + `<readonly/></disk>`},
		"another pool": {`<disk type='volume'><source pool='other' volume='v'/></disk>`, ""},
		"a file":       {`<disk type='file'><source file='/images/v'/></disk>`, ""},
		"another nbd":  {`<disk type='network'><source protocol='nbd' name='v'><host name='h' port='10809'/></source></disk>`, ""},
		"no source":    {`<disk type='volume' device='cdrom'/>`, ""},
	} {
		want := c.out
		if want == "" {
			want = c.in
		}
		if got := rewriter().ToNBD(domain(c.in)); got != domain(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, domain(want))
		}
		if got := rewriter().ToNBD(c.in); got != want {
			t.Errorf("%s as a device alone:\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestFromNBD(t *testing.T) {
	live := `<disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source protocol='nbd' name='%' tls='no' index='1'>
        <host transport='unix' socket='/run/sheep/nbd.sock'/>
      </source>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>`
	show := func(vdi string) string { return rewriter().FromNBD(strings.Replace(live, "%", vdi, 1)) }
	for vdi, source := range map[string]string{
		"img/vm1":   `<source pool='images' volume='vm1' index='1'/>`,
		"vm1":       `<source pool='rest' volume='vm1' index='1'/>`,
		"other/vm1": `<source protocol='sheepdog' name='other/vm1' index='1'/>`,
		"img/v@tag": `<source protocol='sheepdog' name='img/v@tag' index='1'/>`,
	} {
		got := show(vdi)
		if !strings.Contains(got, source) || strings.Contains(got, "nbd") || strings.Contains(got, "<host") {
			t.Errorf("%s is shown as\n%s", vdi, got)
		}
		if again := rewriter().ToNBD(got); !strings.Contains(again, "name='"+vdi+"'") || !strings.Contains(again, "protocol='nbd'") {
			t.Errorf("%s does not come back:\n%s", vdi, again)
		}
	}
	foreign := strings.Replace(strings.Replace(live, "%", "img/vm1", 1), "/run/sheep", "/elsewhere", 1)
	if got := rewriter().FromNBD(foreign); got != foreign {
		t.Errorf("a disk of another NBD server became\n%s", got)
	}
}

func TestReconnectIsAsked(t *testing.T) {
	r := rewriter()
	r.Reconnect = 60
	if got := r.ToNBD(`<disk type='volume'><source pool='images' volume='v'/></disk>`); !strings.Contains(got, "/><reconnect delay='60'/></source>") {
		t.Error(got)
	}
}

// What cannot be parsed is libvirt's to refuse.
func TestUnreadableXMLIsLeftAlone(t *testing.T) {
	for _, text := range []string{"", "<disk", "<disk type='volume'>", "<a><disk></a></disk>", "<disk><source pool='images' volume='v'></disk>",
		"<domain><devices>" + strings.Repeat("<a>", 300) + "<disk/>", "<disk type='volume'><source pool='images' volume='&nope;'/></disk>"} {
		if got := rewriter().ToNBD(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestDisks(t *testing.T) {
	text := domain(`<disk type='volume'><source pool='images' volume='a'/><target dev='vda'/></disk>
<disk type='network'><source protocol='nbd' name='img/b'><host transport='unix' socket='/run/sheep/nbd.sock'/></source><target dev='vdb'/></disk>
<disk type='file'><source file='/x'/><target dev='vdc'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk>
<disk type='file'><source file='/y'/><target dev='vdd'/><readonly/></disk>`)
	got, err := rewriter().Disks(text)
	want := []Disk{{Target: "vda", VDI: "img/a", Ours: true}, {Target: "vdb", VDI: "img/b", Ours: true}, {Target: "vdc"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
}

func TestSnapshots(t *testing.T) {
	s, err := ParseSnapshot(`<domainsnapshot><name>s</name><description>d</description><memory snapshot='no'/><disks><disk name='vda'/><disk name='vdb' snapshot='no'/><disk name='vdc'><source file='/f'/></disk></disks></domainsnapshot>`)
	if err != nil || s.Name != "s" || s.Description != "d" || s.Memory != "no" || len(s.Disks) != 3 {
		t.Errorf("%+v %v", s, err)
	}
	for _, target := range []string{"vda", "vdb", "vdc"} {
		if s.LeavesOut(Disk{Target: target}) != (target == "vdb") || s.Outside(target) != (target == "vdc") {
			t.Errorf("disk %s: %+v", target, s)
		}
	}
	if !s.LeavesOut(Disk{Target: "vda", Apart: true}) {
		t.Error("a disk of which the snapshot says nothing is left out by the domain")
	}
	if _, err := ParseSnapshot("<domainsnapshot>"); err == nil {
		t.Error("half a document was accepted")
	}
	dom := domain(`<disk type='volume'><source pool='images' volume='a'/><target dev='vda'/></disk>`)
	text, err := Record{Name: "s<1>", Description: "d", Created: 5, Disks: []Disk{{Target: "vda"}}, DomainXML: dom}.XML()
	if err != nil {
		t.Fatal(err)
	}
	var any struct{ XMLName xml.Name }
	if err := xml.Unmarshal([]byte(text), &any); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
	if got := DomainOf(text); !strings.HasPrefix(got, "<domain type='kvm'>") || !strings.HasSuffix(got, "</domain>") {
		t.Errorf("the domain within is %q", got)
	}
	if got, err := rewriter().Disks(text); err != nil || len(got) != 1 {
		t.Errorf("disks of the domain within a snapshot: %v %v", got, err)
	}
	if DomainOf("<domainsnapshot><name>x</name></domainsnapshot>") != "" || DomainOf("<") != "" {
		t.Error("a domain where there is none")
	}
}

// Which disks are part of a snapshot is found in the domain within it, beside what others
// have in its metadata, and nothing of that is left in the domain that comes out.
func TestTakenDisksAreFoundAgain(t *testing.T) {
	taken := []Disk{{Target: "vda", VDI: "img/it's <a>", Ours: true}, {Target: "vdb", VDI: "b", Ours: true}}
	const metadata = "<metadata>\n<x:y xmlns:x='urn:z'><taken/></x:y>\n</metadata>"
	for _, dom := range []string{"<domain type='kvm'><name>n</name></domain>", "<domain><name>n</name><metadata/></domain>",
		"<domain>\n  <name>n</name>\n  " + metadata + "\n</domain>"} {
		text, err := withTaken(dom, taken[:1])
		if err == nil {
			text, err = withTaken(text, taken)
		}
		if got, known := Taken(text); err != nil || !known || !reflect.DeepEqual(got, taken) {
			t.Errorf("%s: %v %t %v", text, got, known, err)
		}
		if got := WithoutTaken(text); got != dom {
			t.Errorf("%q became %q", dom, got)
		}
		if _, known := Taken(dom); known {
			t.Errorf("%s has a list of disks", dom)
		}
	}
	for _, broken := range []string{"", "<domain", "<domain/>"} {
		if _, err := withTaken(broken, taken); err == nil {
			t.Errorf("%q was taken", broken)
		}
		if got := WithoutTaken(broken); got != broken {
			t.Errorf("%q became %q", broken, got)
		}
	}
}

func TestHasAgent(t *testing.T) {
	channel := func(state string) string {
		return "<domain><devices><channel><target name='org.qemu.guest_agent.0' state='" + state + "'/></channel></devices></domain>"
	}
	for text, want := range map[string][2]bool{channel("connected"): {true, true}, channel("disconnected"): {false, true}, "<domain/>": {}, "<": {}} {
		if c, ch := HasAgent(text); c != want[0] || ch != want[1] {
			t.Errorf("%s: connected %t, channel %t", text, c, ch)
		}
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add(domain(`<disk type='volume'><source pool='images' volume='vm1'/></disk>`))
	f.Add("<disk type='network'><source protocol='nbd' name='a'><host transport='unix' socket='/run/sheep/nbd.sock'/></source></disk>")
	f.Fuzz(func(t *testing.T, text string) {
		r := rewriter()
		out := r.ToNBD(text)
		if again := r.ToNBD(out); again != out {
			t.Errorf("rewritten twice: %q, %q", out, again)
		}
		if out != text {
			if _, err := disks(out); err != nil {
				t.Errorf("%q became %q, which cannot be parsed: %v", text, out, err)
			}
		}
		r.FromNBD(text)
		DomainOf(text)
	})
}

// The disks of a domain that declares itself as ASCII were not rewritten: libvirt said
// that there is no such pool.
func TestDomainThatIsDeclaredAsASCII(t *testing.T) {
	text := strings.Replace(domain(`<disk type='volume'><source pool='images' volume='v'/></disk>`), "?>", " encoding='ASCII'?>", 1)
	got := rewriter().ToNBD(text)
	if !strings.HasPrefix(got, "<?xml version='1.0' encoding='ASCII'?>\n") || !strings.Contains(got, "name='img/v'") {
		t.Error(got)
	}
}
