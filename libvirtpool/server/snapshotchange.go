package server

import (
	"context"
	"errors"

	"sheepdog"
	"sheepdog/libvirtpool/domxml"
	"sheepdog/libvirtpool/rpc"
)

// snapshotRef is a call of virDomainSnapshotDelete or virDomainRevertToSnapshot.
type snapshotRef struct {
	name  string
	dom   domain
	flags uint32
}

// encode writes the reference with other flags.
func (s snapshotRef) encode(flags uint32) []byte {
	var e rpc.Encoder
	e.String(s.name)
	s.dom.encode(&e)
	e.Uint32(flags)
	return e.Bytes()
}

// changeSnapshot deletes a snapshot or reverts to it, if it is one of ours.
func (c *session) changeSnapshot(ctx context.Context, m *rpc.Message, s snapshotRef) error {
	reply, err := c.up.call(ctx, rpc.DomainSnapshotXML, s.encode(xmlSecure))
	if err != nil {
		return c.fail(m.Header, err)
	}
	config := domxml.DomainOf(rpc.NewDecoder(reply).String())
	disks, err := c.srv.disks.Disks(config)
	if err != nil || !anyOurs(disks) {
		return c.forwardNow(ctx, m)
	}
	if m.Procedure == rpc.DomainSnapshotDelete {
		err = c.deleteSnapshot(ctx, s, disks)
	} else {
		err = c.revert(ctx, s, config, disks)
	}
	if err != nil {
		return c.fail(m.Header, err)
	}
	return c.reply(m.Header, nil)
}

// deleteSnapshot deletes the VDIs' snapshots, then the entry in libvirt's list.
func (c *session) deleteSnapshot(ctx context.Context, s snapshotRef, disks []domxml.Disk) error {
	if s.flags&snapDeleteChildren != 0 {
		return &rpc.Error{Code: rpc.CodeUnsupported, Domain: rpc.FromSnapshot, Text: "snapshots of cluster volumes do not depend on each other: delete them one by one"}
	}
	if s.flags&snapDeleteMetadataOnly == 0 {
		for _, d := range disks {
			if !d.Ours {
				continue
			}
			err := c.srv.cfg.Snapshots.DeleteSnapshot(ctx, d.VDI, tag(s.name))
			if err != nil && !errors.Is(err, sheepdog.ErrNotFound) {
				return &rpc.Error{Code: rpc.CodeFailed, Domain: rpc.FromSnapshot, Text: "delete the snapshot of volume " + d.VDI + ": " + err.Error()}
			}
		}
	}
	_, err := c.up.call(ctx, rpc.DomainSnapshotDelete, s.encode(snapDeleteMetadataOnly))
	return err
}

// revert puts a domain that does not run back to a snapshot: its disks and its
// configuration.
func (c *session) revert(ctx context.Context, s snapshotRef, config string, disks []domxml.Disk) error {
	now, err := c.domainState(ctx, s.dom)
	if err != nil {
		return err
	}
	if now.active() {
		return &rpc.Error{Code: rpc.CodeInvalid, Domain: rpc.FromSnapshot, Text: "the domain runs: shut it off before you revert its cluster volumes"}
	}
	for _, d := range disks {
		if !d.Ours {
			continue
		}
		err := c.srv.cfg.Snapshots.Rollback(ctx, d.VDI, tag(s.name))
		if errors.Is(err, sheepdog.ErrNotFound) {
			continue // it was excluded from the snapshot
		}
		if err != nil {
			return &rpc.Error{Code: rpc.CodeFailed, Domain: rpc.FromSnapshot, Text: "roll back volume " + d.VDI + ": " + err.Error()}
		}
	}
	var e rpc.Encoder
	e.String(config)
	if _, err := c.up.call(ctx, rpc.DomainDefineXML, e.Bytes()); err != nil {
		return err
	}
	if s.flags&(snapRevertRunning|snapRevertPaused) == 0 {
		return nil
	}
	var start rpc.Encoder
	s.dom.encode(&start)
	start.Uint32(s.flags & snapRevertPaused >> 1) // VIR_DOMAIN_START_PAUSED
	_, err = c.up.call(ctx, rpc.DomainCreateFlags, start.Bytes())
	return err
}
