package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/backup"
)

// verified is what `vdi backup --verify -o json` prints.
type verified struct {
	Version  int    `json:"version"`
	Name     string `json:"name"`
	Backups  int    `json:"backups"`            // that are good; with a bad one there is no document
	Repaired int    `json:"repaired,omitempty"` // chunks that were written again
}

// verification reads all that a store has of a VDI.
type verification struct {
	dog      *dog
	store    *backup.Store
	dir      string // as it was given
	name     string
	chunks   *backup.Inspection
	source   *source // nil: nothing is to be written
	good     int     // backups
	repaired int     // chunks
	damaged  map[backup.Sum]bool
	bad      []error // of those, at most maxTold
}

// maxTold bounds how many damaged chunks are named.
const maxTold = 10

// verifyBackups reads all that a directory has of a VDI, and with repair writes again what
// is damaged of that.
func (d *dog) verifyBackups(ctx context.Context, c *api.Client, o *backupOptions, name string) error {
	store, err := backup.Existing(o.dir, d.getenv)
	if err != nil {
		return failed(err, "verify the backups of VDI %s", name)
	}
	v := &verification{dog: d, store: store, dir: o.dir, name: name, chunks: store.Inspect(), damaged: make(map[backup.Sum]bool)}
	if o.repair {
		v.source = &source{client: c, name: name, tried: make(map[backup.Chunk]bool)}
	}
	return failed(v.run(ctx), "verify the backups of VDI %s", name)
}

func (v *verification) run(ctx context.Context) error {
	list, bad, err := v.store.List()
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(m *backup.Manifest) bool { return m.Name != v.name })
	if v.source != nil {
		for _, m := range list {
			if err := v.repair(ctx, m); err != nil {
				return err
			}
		}
	}
	for _, m := range list {
		if err := v.manifest(m); err != nil {
			return err
		}
	}
	if err := errors.Join(bad, v.verdict()); err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("%s has no backup of it", v.dir)
	}
	if v.dog.json() {
		return v.dog.document(verified{Version: api.Version, Name: v.name, Backups: v.good, Repaired: v.repaired})
	}
	text := fmt.Sprintf("%d backups of %s are good", v.good, v.name)
	if v.repaired > 0 {
		text += ", " + v.again()
	}
	return v.dog.print(text + "\n")
}

// manifest reads the chunks of one backup.
func (v *verification) manifest(m *backup.Manifest) error {
	whole := true
	for _, ch := range m.Chunks {
		fault, err := v.chunks.Look(ch)
		if err != nil {
			return err
		}
		if fault != nil {
			whole = false
			v.note(ch.Sum, fmt.Errorf("backup %s of %s at %d: %w", m.ID(), m.Name, ch.Offset, fault))
		}
	}
	if whole {
		v.good++
	}
	return nil
}

// repair writes again what is damaged of one backup.
func (v *verification) repair(ctx context.Context, m *backup.Manifest) error {
	for _, ch := range m.Chunks {
		fault, err := v.chunks.Look(ch)
		if err != nil {
			return err
		}
		if fault == nil {
			continue
		}
		data, err := v.source.find(ctx, ch)
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		if err := v.store.Replace(ch, data); err != nil {
			return err
		}
		v.chunks.Mended(ch)
		v.repaired++
	}
	return nil
}

// note counts a damaged chunk, and the first ones are named.
func (v *verification) note(sum backup.Sum, err error) {
	if v.damaged[sum] {
		return
	}
	v.damaged[sum] = true
	if len(v.bad) < maxTold {
		v.bad = append(v.bad, err)
	}
}

// verdict says what is damaged, and what can be done about it.
func (v *verification) verdict() error {
	if len(v.damaged) == 0 {
		return nil
	}
	next := fmt.Sprintf("dog vdi backup --repair --dir %s %s writes again what the VDI and its snapshots still have of that", v.dir, v.name)
	if v.source != nil {
		next = "neither the VDI nor one of its snapshots has the same bytes there any more; what other backups have is not touched by that"
		if v.repaired > 0 {
			next += "; " + v.again()
		}
	}
	return fmt.Errorf("%w\n%s of its backups %s damaged or missing: %s", errors.Join(v.bad...), chunks(len(v.damaged)), is(len(v.damaged)), next)
}

func (v *verification) again() string {
	if v.repaired == 1 {
		return "1 chunk was written again"
	}
	return fmt.Sprintf("%d chunks were written again", v.repaired)
}

func chunks(n int) string {
	if n == 1 {
		return "1 chunk"
	}
	return fmt.Sprintf("%d chunks", n)
}

func is(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// source is a VDI and its snapshots, from which chunks are made again. A chunk is its
// bytes, so whichever of them has the right ones will do.
type source struct {
	client *api.Client
	name   string
	states []api.VDI // nil: not asked for yet
	tried  map[backup.Chunk]bool
}

// find reads the bytes of a chunk from where it lies in the VDI; nil if nothing has
// them there any more.
func (s *source) find(ctx context.Context, ch backup.Chunk) ([]byte, error) {
	if s.tried[ch] {
		return nil, nil
	}
	s.tried[ch] = true
	if s.states == nil {
		list, err := s.client.VDIs(ctx, &api.VDIQuery{Name: s.name})
		if err != nil {
			return nil, err
		}
		s.states = append(make([]api.VDI, 0, len(list)), list...)
	}
	for i := range s.states {
		data, err := readSpan(ctx, s.client, &s.states[i], byteSpan{ch.Offset, uint64(ch.Length)})
		switch {
		case errors.Is(err, sheepdog.ErrNotFound): // deleted meanwhile
		case err != nil:
			return nil, err
		case sha256.Sum256(data) == ch.Sum:
			return data, nil
		}
	}
	return nil, nil
}
