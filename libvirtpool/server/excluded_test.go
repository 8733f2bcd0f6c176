package server

import (
	"strings"
	"testing"

	"sheepdog/libvirtpool/rpc"
)

// excluding makes a domain of the disks vda and vdb, both ours, and a snapshot s of it
// in which vdb, which has a snapshot of the same name from elsewhere, is left out.
func excluding(t *testing.T, domain, asked string) (*world, *daemon, *raw) {
	t.Helper()
	w, d := behind(t)
	ctx := t.Context()
	if err := w.cluster.Create(ctx, "p/w", 4096); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.Snapshot(ctx, "p/w", "s"); err != nil {
		t.Fatal(err)
	}
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, domain)
	c.must(rpc.DomainSnapshotCreateXML, "vm", noUUID, -1, asked, 0)
	for _, vdi := range []string{"p/v", "p/w"} {
		if err := w.cluster.Write(ctx, vdi, 0, strings.NewReader("later")); err != nil {
			t.Fatal(err)
		}
	}
	return w, d, c
}

// A snapshot of a domain was reverted, and deleted, on disks that were left out of it,
// where those had a snapshot of the same name. And snapshot='no' of the domain's own
// disks, which libvirt goes by where the snapshot says nothing, was not looked at.
func TestDisksThatWereLeftOutAreLeftAlone(t *testing.T) {
	own := strings.Replace(twoDisks, "<disk type='volume'><source pool='p' volume='w'/>", "<disk type='volume' snapshot='no'><source pool='p' volume='w'/>", 1)
	for name, c := range map[string]struct{ domain, asked string }{
		"by the snapshot": {twoDisks, "<domainsnapshot><name>s</name><disks><disk name='vdb' snapshot='no'/></disks></domainsnapshot>"},
		"by the domain":   {own, "<domainsnapshot><name>s</name></domainsnapshot>"},
	} {
		t.Run(name, func(t *testing.T) {
			w, d, cl := excluding(t, c.domain, c.asked)
			before := d.defined()
			cl.must(rpc.DomainSnapshotRevert, "s", "vm", noUUID, -1, 0)
			if b := w.cluster.Bytes("p/v"); b[0] != 0 {
				t.Error("the disk that is part of the snapshot was not rolled back")
			}
			if b := w.cluster.Bytes("p/w"); !strings.HasPrefix(string(b), "later") {
				t.Error("the disk that was left out was rolled back")
			}
			if now := d.defined(); now != before {
				t.Errorf("the domain became\n%s\nand was\n%s", now, before)
			}
			cl.must(rpc.DomainSnapshotDelete, "s", "vm", noUUID, -1, 0)
			v, err := w.cluster.Find(t.Context(), "p/v")
			o, oerr := w.cluster.Find(t.Context(), "p/w")
			if err != nil || oerr != nil || len(v.Snapshots) != 0 || len(o.Snapshots) != 1 {
				t.Errorf("snapshots %v and %v", v.Snapshots, o.Snapshots)
			}
		})
	}
}

// A disk that the snapshot's XML asks for is part of it whatever the domain says, and a
// name that no disk has is an error: a typing error had a disk saved that was to be left
// out.
func TestSnapshotGoesByTheNamesOfDisks(t *testing.T) {
	w, _ := behind(t)
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, strings.Replace(domainXML, "<disk type='volume'>", "<disk type='volume' snapshot='no'>", 1))
	take := func(disk string) *rpc.Error {
		_, err := c.call(rpc.DomainSnapshotCreateXML, "vm", noUUID, -1, "<domainsnapshot><name>s</name><disks>"+disk+"</disks></domainsnapshot>", 0)
		return err
	}
	if err := take("<disk name='vdx' snapshot='no'/>"); err == nil || err.Code != rpc.CodeConfig || !strings.Contains(err.Error(), "'vdx'") {
		t.Errorf("a disk that is not there: %v", err)
	}
	if err := take("<disk name='vda'/>"); err == nil || !strings.Contains(err.Error(), "no disk is part") {
		t.Errorf("the domain's own setting: %v", err)
	}
	if err := take("<disk name='vda' snapshot='external'/>"); err != nil {
		t.Errorf("against the domain's own setting: %v", err)
	}
}

// A revert of a snapshot whose VDI snapshot was deleted meanwhile did nothing, and
// reported success. With several disks none is rolled back if one cannot be.
func TestRevertNeedsTheSnapshotsOfTheVDIs(t *testing.T) {
	w, d := behind(t)
	ctx := t.Context()
	if err := w.cluster.Create(ctx, "p/w", 4096); err != nil {
		t.Fatal(err)
	}
	c := w.dial("").open()
	c.must(rpc.DomainDefineXML, twoDisks)
	c.must(rpc.DomainSnapshotCreateXML, "vm", noUUID, -1, "<domainsnapshot><name>s</name></domainsnapshot>", 0)
	if err := w.cluster.Write(ctx, "p/v", 0, strings.NewReader("later")); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.DeleteSnapshot(ctx, "p/w", "s"); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"with a list of its disks", "as they were written before there was one"} {
		_, err := c.call(rpc.DomainSnapshotRevert, "s", "vm", noUUID, -1, 0)
		if err == nil || !strings.Contains(err.Error(), "p/") {
			t.Errorf("%s: %v", form, err)
		}
		if b := w.cluster.Bytes("p/v"); !strings.HasPrefix(string(b), "later") {
			t.Errorf("%s: a half of the disks was rolled back", form)
		}
		d.mu.Lock()
		d.redefine = "<domainsnapshot><name>s</name>" + d.domain + "</domainsnapshot>"
		d.mu.Unlock()
		if err := w.cluster.DeleteSnapshot(ctx, "p/v", "s"); form[0] == 'w' && err != nil {
			t.Fatal(err)
		}
	}
}
