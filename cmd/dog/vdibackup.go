package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/backup"
	"sheepdog/cmd/dog/internal/show"
)

// changePages visits every index at which two states of a VDI can differ.
func changePages(ctx context.Context, c *api.Client, q api.ChangeQuery, visit func(index uint32) error) error {
	for {
		list, err := c.ChangedObjects(ctx, &q)
		if err != nil {
			return err
		}
		for _, i := range list.Indexes {
			if err := visit(i); err != nil {
				return err
			}
		}
		if !list.More || len(list.Indexes) == 0 {
			return nil
		}
		q.Index = list.Indexes[len(list.Indexes)-1] + 1
	}
}

// span of bytes of a VDI.
type byteSpan struct{ offset, length uint64 }

// pieces cuts an object into runs of at most backup.Piece bytes, ending with the
// VDI.
func pieces(v *api.VDI, index uint32) (out []byteSpan) {
	size := uint64(1) << v.BlockSizeShift
	start := uint64(index) << v.BlockSizeShift
	end := min(start+size, v.SizeBytes)
	for at := start; at < end; at += backup.Piece {
		out = append(out, byteSpan{at, min(backup.Piece, end-at)})
	}
	return out
}

// readSpan reads bytes of a VDI or snapshot; beyond its end are zeros.
func readSpan(ctx context.Context, c *api.Client, v *api.VDI, s byteSpan) ([]byte, error) {
	buf := bytes.NewBuffer(make([]byte, 0, s.length))
	if s.offset < v.SizeBytes {
		req := &api.ReadRequest{Name: v.Name, Snapshot: selectorOf(v), Offset: s.offset, Length: int64(min(s.length, v.SizeBytes-s.offset))}
		if _, err := c.ReadVDI(ctx, req, buf); err != nil {
			return nil, err
		}
	}
	return append(buf.Bytes(), make([]byte, s.length-uint64(buf.Len()))...), nil
}

// selectorOf selects a VDI or snapshot by its number.
func selectorOf(v *api.VDI) api.Selector {
	if !v.Snapshot {
		return ""
	}
	return api.Selector(fmt.Sprint(v.SnapshotID))
}

// backupOptions are those of `vdi backup`.
type backupOptions struct {
	from, to api.Selector
	dir      string
	verify   bool
	repair   bool
	full     bool
}

func (d *dog) vdiBackup() *cobra.Command {
	o := &backupOptions{}
	cmd := &cobra.Command{Use: "backup {-F <snapshot> -s <snapshot> | [-s <snapshot>] --dir <directory> [--verify | --repair]} <vdiname>",
		Short: "Write what changed between two snapshots to stdout, or a snapshot to a directory", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			switch {
			case (o.verify || o.repair) && o.dir == "":
				return badArgument("--verify and --repair need --dir")
			case o.verify || o.repair:
				return d.verifyBackups(ctx, c, o, args[0])
			case o.dir != "" && o.from != "":
				return badArgument("A directory finds out itself what changed; leave -F out")
			case o.dir != "" && o.to == "":
				return badArgument("Please specify the snapshot with the '-s' option")
			case o.dir != "":
				return failed(d.backupTo(ctx, c, o, args[0]), "back VDI %s up", args[0])
			case o.full && o.from == "" && o.to != "":
			case o.from == "" || o.to == "":
				return badArgument("Please specify snapshots with '-F' and '-s' options")
			}
			return failed(d.backupStream(ctx, c, o, args[0]), "back VDI %s up", args[0])
		})}
	f := cmd.Flags()
	f.StringVarP((*string)(&o.from), "from-snapshot", "F", "", "the older snapshot, by number or tag")
	snapshotFlag(cmd, &o.to)
	f.BoolVar(&o.full, "full", false, "all of the snapshot, to stdout: what differs from zeros")
	f.StringVar(&o.dir, "dir", "", "keep the snapshot in this directory or bucket (s3://BUCKET/PREFIX); pieces that it has already are not kept again")
	f.BoolVar(&o.verify, "verify", false, "read and check what the directory has of the VDI")
	f.BoolVar(&o.repair, "repair", false, "the same, and write again what is damaged or missing, where the VDI or one of its snapshots still has it")
	return cmd
}

// backupStream writes the original's format to stdout.
func (d *dog) backupStream(ctx context.Context, c *api.Client, o *backupOptions, name string) error {
	to, err := findVDI(ctx, c, name, o.to)
	if err != nil {
		return err
	}
	from := &api.VDI{} // of no bytes: reads as zeros
	if o.from != "" {
		if from, err = findVDI(ctx, c, name, o.from); err != nil {
			return err
		}
	}
	d.bytes = true
	w := backup.NewWriter(d.stdout)
	err = changePages(ctx, c, api.ChangeQuery{Name: name, From: o.from, To: o.to}, func(index uint32) error {
		return streamObject(ctx, c, from, to, index, w)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func streamObject(ctx context.Context, c *api.Client, from, to *api.VDI, index uint32, w *backup.Writer) error {
	for _, s := range pieces(to, index) {
		old, err := readSpan(ctx, c, from, s)
		if err != nil {
			return err
		}
		now, err := readSpan(ctx, c, to, s)
		if err != nil {
			return err
		}
		a, b := backup.Difference(old, now)
		if a == b {
			continue
		}
		offset := s.offset - uint64(index)<<to.BlockSizeShift + uint64(a)
		if err := w.Write(backup.Record{Index: index, Offset: uint32(offset), Data: now[a:b]}); err != nil {
			return fmt.Errorf("write the backup: %w", err)
		}
	}
	return nil
}

// backupReport is what `vdi backup --dir -o json` prints.
type backupReport struct {
	Version   int    `json:"version"`
	ID        string `json:"id"`
	Base      string `json:"base,omitempty"` // the backup that it began with
	ReadBytes uint64 `json:"readBytes"`      // from the cluster
	NewBytes  uint64 `json:"newBytes"`       // that the directory did not have
}

func (d *dog) backupTo(ctx context.Context, c *api.Client, o *backupOptions, name string) error {
	store, err := backup.Open(o.dir, d.getenv)
	if err != nil {
		return err
	}
	cl, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	v, err := findVDI(ctx, c, name, o.to)
	if err != nil {
		return err
	}
	r, err := d.saveSnapshot(ctx, c, store, cl.ID.String(), v)
	if err != nil {
		return err
	}
	if d.json() {
		return d.document(r)
	}
	if d.verbose {
		return d.print(fmt.Sprintf("%s: read %s, added %s\n", r.ID, show.Size(r.ReadBytes), show.Size(r.NewBytes)))
	}
	return nil
}

// saveSnapshot keeps one snapshot in a store: what the newest backup of the same
// VDI that still has its snapshot shares with it is not read again.
func (d *dog) saveSnapshot(ctx context.Context, c *api.Client, store *backup.Store, cluster string, v *api.VDI) (*backupReport, error) {
	m := &backup.Manifest{Cluster: cluster, Name: v.Name, VID: v.ID.String(), SnapshotID: v.SnapshotID, Tag: v.Tag, Description: v.Description,
		Created: v.Created, SizeBytes: v.SizeBytes, BlockSizeShift: v.BlockSizeShift, Copies: v.Copies.String()}
	base, from, err := baseOf(ctx, c, store, m)
	if err != nil {
		return nil, err
	}
	r := &backupReport{Version: api.Version}
	chunks := make(map[uint64]backup.Chunk)
	q := api.ChangeQuery{Name: v.Name, To: selectorOf(v)}
	if base != nil {
		r.Base, q.From = base.ID(), from
		for _, ch := range base.Chunks {
			chunks[ch.Offset] = ch
		}
	}
	bar := d.progress(func(n uint64) string { return fmt.Sprintf("%d objects", n) })
	defer bar.end()
	all := (v.SizeBytes + 1<<v.BlockSizeShift - 1) >> v.BlockSizeShift
	err = changePages(ctx, c, q, func(index uint32) error {
		bar.draw(uint64(index), all)
		return keepObject(ctx, c, store, v, index, chunks, r)
	})
	if err != nil {
		return nil, err
	}
	for _, ch := range chunks {
		m.Chunks = append(m.Chunks, ch)
	}
	slices.SortFunc(m.Chunks, func(a, b backup.Chunk) int { return cmp.Compare(a.Offset, b.Offset) })
	err = store.Save(m)
	r.ID = m.ID()
	return r, err
}

// baseOf finds the backup to begin with, and the snapshot that it is of.
func baseOf(ctx context.Context, c *api.Client, store *backup.Store, m *backup.Manifest) (*backup.Manifest, api.Selector, error) {
	list, _, err := store.List()
	if err != nil {
		return nil, "", err
	}
	vdis, err := c.VDIs(ctx, &api.VDIQuery{Name: m.Name})
	if err != nil {
		return nil, "", err
	}
	for _, b := range slices.Backward(list) {
		if b.Cluster != m.Cluster || b.Name != m.Name || b.BlockSizeShift != m.BlockSizeShift || b.SizeBytes > m.SizeBytes {
			continue
		}
		for i := range vdis {
			v := &vdis[i]
			if v.Snapshot && v.ID.String() == b.VID && v.SnapshotID == b.SnapshotID && v.Created.Equal(b.Created) {
				return b, selectorOf(v), nil
			}
		}
	}
	return nil, "", nil
}

// keepObject reads one object and keeps its pieces; zeros need none.
func keepObject(ctx context.Context, c *api.Client, store *backup.Store, v *api.VDI, index uint32, chunks map[uint64]backup.Chunk, r *backupReport) error {
	for _, s := range pieces(v, index) {
		data, err := readSpan(ctx, c, v, s)
		if err != nil {
			return err
		}
		r.ReadBytes += s.length
		if backup.IsZero(data) {
			delete(chunks, s.offset)
			continue
		}
		sum, added, err := store.Put(data)
		if err != nil {
			return err
		}
		if added {
			r.NewBytes += s.length
		}
		chunks[s.offset] = backup.Chunk{Offset: s.offset, Length: uint32(s.length), Sum: sum}
	}
	return nil
}
