package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/backup"
	"sheepdog/cmd/dog/internal/show"
)

// restoreReport is what a restore onto a VDI that exists prints with -o json.
type restoreReport struct {
	Version      int    `json:"version"`
	Name         string `json:"name"`
	ID           string `json:"id"`             // of the backup
	Base         string `json:"base,omitempty"` // the backup that it was compared with
	ReadBytes    uint64 `json:"readBytes"`      // from the cluster, to compare
	WrittenBytes uint64 `json:"writtenBytes"`   // that differed
}

// restoreOnto makes a VDI that exists what a backup says, and writes only what
// differs. What the VDI was stays as a snapshot; after a failure it is that
// again.
func (d *dog) restoreOnto(ctx context.Context, c *api.Client, store *backup.Store, m *backup.Manifest, v *api.VDI) error {
	if v.SizeBytes != m.SizeBytes || v.BlockSizeShift != m.BlockSizeShift {
		return fmt.Errorf("the VDI has %d bytes in objects of 2^%d, the backup %d in 2^%d: restore it to a new VDI, with --from %s",
			v.SizeBytes, v.BlockSizeShift, m.SizeBytes, m.BlockSizeShift, m.Name)
	}
	r := &restoreReport{Version: api.Version, Name: v.Name, ID: m.ID()}
	suspects, err := d.suspects(ctx, c, store, m, v, r)
	if err != nil {
		return err
	}
	back, err := d.setAside(ctx, c, v.Name)
	if err != nil {
		return err
	}
	if err := d.mend(ctx, c, store, m, v, suspects, r); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		return errors.Join(err, back(undo))
	}
	switch {
	case d.json():
		return d.document(r)
	case d.verbose:
		return d.print(fmt.Sprintf("%s: compared %s, wrote %s\n", r.ID, show.Size(r.ReadBytes), show.Size(r.WrittenBytes)))
	}
	return nil
}

// suspects lists the pieces in which the VDI may differ from the backup: with a
// backup of a snapshot that it still has, where the two backups differ and what
// was written since; else everything that is not zeros in both.
func (d *dog) suspects(ctx context.Context, c *api.Client, store *backup.Store, m *backup.Manifest, v *api.VDI, r *restoreReport) (map[uint64]uint64, error) {
	cl, err := c.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	probe := &backup.Manifest{Cluster: cl.ID.String(), Name: v.Name, SizeBytes: v.SizeBytes, BlockSizeShift: v.BlockSizeShift}
	base, from, err := baseOf(ctx, c, store, probe)
	if err != nil {
		return nil, err
	}
	have := make(map[uint64]backup.Chunk)
	if base != nil {
		r.Base = base.ID()
		for _, ch := range base.Chunks {
			have[ch.Offset] = ch
		}
	}
	out := make(map[uint64]uint64) // length by offset
	// Of two pieces at one offset the longer counts: one of before the VDI grew ends
	// with what the VDI was.
	suspect := func(ch backup.Chunk) { out[ch.Offset] = max(out[ch.Offset], uint64(ch.Length)) }
	for _, ch := range m.Chunks {
		if have[ch.Offset] == ch {
			delete(have, ch.Offset)
		} else {
			suspect(ch)
		}
	}
	for _, ch := range have {
		suspect(ch)
	}
	err = changePages(ctx, c, api.ChangeQuery{Name: v.Name, From: from}, func(index uint32) error {
		for _, s := range pieces(v, index) {
			out[s.offset] = s.length
		}
		return nil
	})
	return out, err
}

// mend compares the suspects and writes those that differ.
func (d *dog) mend(ctx context.Context, c *api.Client, store *backup.Store, m *backup.Manifest, v *api.VDI, suspects map[uint64]uint64, r *restoreReport) error {
	want := make(map[uint64]backup.Chunk, len(m.Chunks))
	for _, ch := range m.Chunks {
		want[ch.Offset] = ch
	}
	bar := d.progress(show.Size)
	defer bar.end()
	for _, offset := range slices.Sorted(maps.Keys(suspects)) {
		bar.draw(offset, v.SizeBytes)
		length := suspects[offset]
		now, err := readSpan(ctx, c, v, byteSpan{offset, length})
		if err != nil {
			return err
		}
		r.ReadBytes += length
		ch, ok := want[offset]
		if (!ok || sha256.Sum256(now[:ch.Length]) == ch.Sum) && backup.IsZero(now[ch.Length:]) {
			continue
		}
		data := make([]byte, length) // zeros behind the chunk
		if ok {
			chunk, err := store.Get(ch)
			if err != nil {
				return err
			}
			copy(data, chunk)
		}
		if _, err := c.WriteVDI(ctx, &api.WriteRequest{Name: v.Name, Offset: offset, Length: int64(length)}, bytes.NewReader(data)); err != nil {
			return err
		}
		r.WrittenBytes += length
	}
	return nil
}
