package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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
	over, err := c.srv.turns.take(ctx, s.dom)
	if err != nil {
		return c.fail(m.Header, err)
	}
	defer over()
	reply, err := c.up.call(ctx, rpc.DomainSnapshotXML, s.encode(xmlSecure))
	if err != nil {
		return c.fail(m.Header, err)
	}
	config := domxml.DomainOf(rpc.NewDecoder(reply).String())
	disks, err := c.srv.disks.Disks(config)
	if err != nil || !anyOurs(disks) {
		return c.forwardNow(ctx, m)
	}
	taken, known := domxml.Taken(config)
	if !known {
		taken = slices.DeleteFunc(disks, func(d domxml.Disk) bool { return !d.Ours })
	}
	if m.Procedure == rpc.DomainSnapshotDelete {
		err = c.deleteSnapshot(ctx, s, taken)
	} else {
		err = c.revert(ctx, s, config, taken, known)
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
// configuration. known: all disks were part of the snapshot; else they may have been.
func (c *session) revert(ctx context.Context, s snapshotRef, config string, disks []domxml.Disk, known bool) error {
	now, err := c.domainState(ctx, s.dom)
	if err != nil {
		return err
	}
	if now.active() {
		return &rpc.Error{Code: rpc.CodeInvalid, Domain: rpc.FromSnapshot, Text: "the domain runs: shut it off before you revert its cluster volumes"}
	}
	if disks, err = c.revertible(ctx, s, disks, known); err != nil {
		return err
	}
	for i, d := range disks {
		if err := c.srv.cfg.Snapshots.Rollback(ctx, d.VDI, tag(s.name)); err != nil {
			return revertFailure(d, err, disks[:i])
		}
	}
	var e rpc.Encoder
	e.String(domxml.WithoutTaken(config))
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

// revertible is the disks that have the snapshot. None may lack it that is known to have
// had it, and one must have it: this is found out before any is rolled back.
func (c *session) revertible(ctx context.Context, s snapshotRef, disks []domxml.Disk, known bool) (have []domxml.Disk, err error) {
	var lacks []string
	for _, d := range disks {
		v, err := c.srv.cfg.Snapshots.Find(ctx, d.VDI)
		switch {
		case errors.Is(err, sheepdog.ErrNotFound) && known:
			have = append(have, d) // its snapshot may be left, and gives it back
		case err != nil && !errors.Is(err, sheepdog.ErrNotFound):
			return nil, revertFailure(d, err, nil)
		case err == nil && slices.Contains(v.Snapshots, tag(s.name)):
			have = append(have, d)
		default:
			lacks = append(lacks, d.VDI)
		}
	}
	if known && len(lacks) > 0 || len(have) == 0 {
		return nil, &rpc.Error{Code: rpc.CodeFailed, Domain: rpc.FromSnapshot, Text: fmt.Sprintf(
			"nothing is rolled back: the cluster has no snapshot %s of %s any more", tag(s.name), strings.Join(lacks, ", "))}
	}
	return have, nil
}

// revertFailure says what became of the disks before the one that failed.
func revertFailure(d domxml.Disk, err error, before []domxml.Disk) error {
	text := "roll back volume " + d.VDI + ": " + err.Error()
	for _, b := range before {
		text += "; volume " + b.VDI + " is rolled back already"
	}
	if len(before) > 0 {
		text += ": revert once more when the cause is gone"
	}
	return &rpc.Error{Code: rpc.CodeFailed, Domain: rpc.FromSnapshot, Text: text}
}
