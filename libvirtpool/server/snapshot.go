package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sheepdog"
	"sheepdog/libvirtpool/domxml"
	"sheepdog/libvirtpool/rpc"
)

// Bits of virDomainSnapshotCreateFlags.
const (
	snapRedefine   = 1
	snapCurrent    = 2
	snapNoMetadata = 4
	snapHalt       = 8
	snapDiskOnly   = 16
	snapReuse      = 32
	snapQuiesce    = 64
)

// Other bits.
const (
	snapDeleteChildren     = 1 | 4 // with or without the snapshot itself
	snapDeleteMetadataOnly = 2
	snapRevertRunning      = 1
	snapRevertPaused       = 2
	xmlSecure              = 1 // VIR_DOMAIN_XML_SECURE
)

// Bounds of the steps of a snapshot.
const (
	freezeTimeout = 30 * time.Second
	thawTimeout   = 30 * time.Second
	vdiTimeout    = 30 * time.Second
	thawEvery     = 10 * time.Second // tries to thaw a guest whose agent did not answer
	thawPatience  = 15 * time.Minute // for that
)

// snapshotCall handles snapshots of domains: those whose disks are all ours
// become snapshots of VDIs; all others are libvirtd's.
func (c *session) snapshotCall(m *rpc.Message) error {
	if c.readOnly.Load() || c.srv.cfg.Snapshots == nil {
		return c.forward(m)
	}
	switch m.Procedure {
	case rpc.DomainSnapshotCreateXML:
		d := rpc.NewDecoder(m.Payload())
		r := snapshotRequest{dom: decodeDomain(d), text: d.String(), flags: d.Uint32()}
		if d.Err() != nil {
			return c.fail(m.Header, d.Err())
		}
		if r.flags&snapRedefine != 0 {
			return c.forward(m)
		}
		return c.background(func(ctx context.Context) error { return c.snapshot(ctx, m, r) })
	default:
		d := rpc.NewDecoder(m.Payload())
		s := snapshotRef{name: d.String(), dom: decodeDomain(d), flags: d.Uint32()}
		if d.Err() != nil {
			return c.fail(m.Header, d.Err())
		}
		return c.background(func(ctx context.Context) error { return c.changeSnapshot(ctx, m, s) })
	}
}

// snapshotRequest is a call of virDomainSnapshotCreateXML.
type snapshotRequest struct {
	dom   domain
	text  string
	flags uint32

	asked domxml.Snapshot
	disks []domxml.Disk // ours that are part of it
	xml   string        // of the domain
	state state
}

// snapshotFailure is an error that names the step.
func snapshotFailure(code rpc.Code, step string, err error) error {
	return &rpc.Error{Code: code, Domain: rpc.FromSnapshot, Text: fmt.Sprintf("the snapshot was abandoned, nothing is left of it: %s: %v", step, err)}
}

// snapshot makes a snapshot of a domain's VDIs, or leaves it to libvirtd when no
// disk is ours.
func (c *session) snapshot(ctx context.Context, m *rpc.Message, r snapshotRequest) error {
	over, err := c.srv.turns.take(ctx, r.dom)
	if err != nil {
		return c.fail(m.Header, err)
	}
	defer over()
	if r.xml, err = c.domainXML(ctx, r.dom, xmlSecure); err != nil {
		return c.fail(m.Header, err)
	}
	if r.state, err = c.domainState(ctx, r.dom); err != nil {
		return c.fail(m.Header, err)
	}
	disks, err := c.srv.disks.Disks(r.xml)
	if err != nil || !anyOurs(disks) {
		return c.forwardNow(ctx, m)
	}
	if err := r.plan(disks); err != nil {
		return c.fail(m.Header, err)
	}
	if err := c.takeSnapshot(ctx, &r); err != nil {
		return c.fail(m.Header, err)
	}
	var out rpc.Encoder
	out.String(r.asked.Name)
	r.dom.encode(&out)
	return c.reply(m.Header, out.Bytes())
}

func anyOurs(disks []domxml.Disk) bool {
	for _, d := range disks {
		if d.Ours {
			return true
		}
	}
	return false
}

// plan checks whether what is asked for is possible.
func (r *snapshotRequest) plan(disks []domxml.Disk) error {
	refuse := func(format string, args ...any) error {
		return &rpc.Error{Code: rpc.CodeConfig, Domain: rpc.FromSnapshot, Text: fmt.Sprintf(format, args...)}
	}
	var err error
	if r.asked, err = domxml.ParseSnapshot(r.text); err != nil {
		return &rpc.Error{Code: rpc.CodeXML, Domain: rpc.FromSnapshot, Text: err.Error()}
	}
	if r.asked.Name == "" {
		r.asked.Name = strconv.FormatInt(time.Now().Unix(), 10)
	}
	switch {
	case r.state.active() && r.flags&snapDiskOnly == 0:
		return refuse("the memory of a guest on cluster volumes cannot be saved: ask for a snapshot of the disks only (--disk-only)")
	case r.asked.Memory != "" && r.asked.Memory != "no":
		return refuse("memory snapshot='%s' is not possible with disks on cluster volumes", r.asked.Memory)
	case r.flags&snapReuse != 0 || r.flags&snapHalt != 0:
		return refuse("disks on cluster volumes are saved within the cluster: reuse of files and halt are not possible")
	case r.flags&snapQuiesce != 0 && !r.state.active():
		return &rpc.Error{Code: rpc.CodeInvalid, Domain: rpc.FromSnapshot, Text: "domain is not running, so it cannot be quiesced"}
	}
	for _, asked := range r.asked.Disks {
		if !slices.Contains(domxml.Targets(r.xml), asked.Target) {
			return refuse("the domain has no disk '%s': name disks by their target, such as vda", asked.Target)
		}
	}
	for _, d := range disks {
		switch {
		case r.asked.LeavesOut(d):
		case !d.Ours:
			return refuse("disk '%s' is not on the cluster: exclude it with snapshot='no'", d.Target)
		case r.asked.Outside(d.Target):
			return refuse("disk '%s' is on the cluster and is saved there, as a snapshot of its VDI: name no file for it", d.Target)
		default:
			r.disks = append(r.disks, d)
		}
	}
	if len(r.disks) == 0 {
		return refuse("no disk is part of the snapshot")
	}
	return nil
}

// tag is the name of the VDI snapshots: the snapshot's own, but numbers select
// snapshots by id.
func tag(name string) string {
	if strings.Trim(name, "0123456789") == "" {
		return "libvirt-" + name
	}
	return name
}

// takeSnapshot freezes the guest, takes the VDIs' snapshots, thaws it and writes
// the snapshot into libvirt's list. When a step fails, the ones before are
// undone.
func (c *session) takeSnapshot(ctx context.Context, r *snapshotRequest) error {
	if err := c.tagIsFree(ctx, r); err != nil {
		return err
	}
	resume, err := c.quiesce(ctx, r)
	if err != nil {
		return err
	}
	taken, err := c.snapshotVDIs(ctx, r)
	if rerr := resume(); rerr != nil && err == nil {
		err = rerr
	}
	if err == nil && r.flags&snapNoMetadata == 0 {
		err = c.record(ctx, r)
	}
	if err != nil {
		c.forget(ctx, r, taken)
	}
	return err
}

// tagIsFree fails if a VDI has a snapshot of that name: what is taken and not answered
// is deleted by its name.
func (c *session) tagIsFree(ctx context.Context, r *snapshotRequest) error {
	for _, d := range r.disks {
		v, err := c.srv.cfg.Snapshots.Find(ctx, d.VDI)
		if err == nil && slices.Contains(v.Snapshots, tag(r.asked.Name)) {
			err = fmt.Errorf("it has a snapshot %s already; choose another name, or delete it", tag(r.asked.Name))
		}
		if err != nil {
			return snapshotFailure(rpc.CodeFailed, fmt.Sprintf("snapshot volume %s of disk %s", d.VDI, d.Target), err)
		}
	}
	return nil
}

// snapshotVDIs takes the snapshots and returns which ones exist, also with an
// error.
func (c *session) snapshotVDIs(ctx context.Context, r *snapshotRequest) (taken []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, vdiTimeout)
	defer cancel()
	for _, d := range r.disks {
		if err := c.srv.cfg.Snapshots.Snapshot(ctx, d.VDI, tag(r.asked.Name)); err != nil {
			if ctx.Err() != nil || errors.Is(err, sheepdog.ErrUnreachable) {
				taken = append(taken, d.VDI) // perhaps
			}
			return taken, snapshotFailure(rpc.CodeFailed, fmt.Sprintf("snapshot volume %s of disk %s", d.VDI, d.Target), err)
		}
		taken = append(taken, d.VDI)
	}
	return taken, nil
}

// record writes the snapshot into libvirt's list, with the domain as it was then:
// a disk that was plugged in meanwhile is part of it.
func (c *session) record(ctx context.Context, r *snapshotRequest) error {
	all, err := c.srv.disks.Disks(r.xml)
	if err != nil {
		return snapshotFailure(rpc.CodeFailed, "read the domain's configuration", err)
	}
	rec := domxml.Record{Name: r.asked.Name, Description: r.asked.Description, Created: time.Now().Unix(), Disks: all, Taken: r.disks, DomainXML: r.xml}
	text, err := rec.XML()
	if err != nil {
		return snapshotFailure(rpc.CodeFailed, "read the domain's configuration", err)
	}
	var e rpc.Encoder
	r.dom.encode(&e)
	e.String(text)
	e.Uint32(snapRedefine | snapCurrent | snapDiskOnly)
	if _, err := c.up.call(ctx, rpc.DomainSnapshotCreateXML, e.Bytes()); err != nil {
		return snapshotFailure(rpc.CodeFailed, "write the snapshot into libvirt's list", err)
	}
	return nil
}

// forget deletes what a failed snapshot left.
func (c *session) forget(ctx context.Context, r *snapshotRequest, vdis []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vdiTimeout)
	defer cancel()
	for _, vdi := range vdis {
		err := c.srv.cfg.Snapshots.DeleteSnapshot(ctx, vdi, tag(r.asked.Name))
		if err != nil && !errors.Is(err, sheepdog.ErrNotFound) {
			c.srv.log.Error("a snapshot of an abandoned domain snapshot is left", "vdi", vdi, "tag", tag(r.asked.Name), "err", err)
		}
	}
}
