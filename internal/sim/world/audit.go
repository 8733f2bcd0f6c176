package world

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"sheepdog"
)

// Audit compares what all nodes hold after everything has healed: every object
// has equal replicas on exactly the nodes that act, nothing is rotten, nothing
// is left of layers that the directory does not list, and all directories are
// equal.
func (w *World) Audit() {
	w.t.Helper()
	w.AwaitWhole()
	w.Await(w.opt.Patience, "all replicas are equal and nothing is left over", w.audit)
}

func (w *World) audit() error {
	hosts := w.Up()
	if err := w.whole(); err != nil {
		return err
	}
	if err := sameDirectories(hosts); err != nil {
		return err
	}
	v := hosts[0].Node().Cluster().View()
	held := make(map[sheepdog.ListEntry][]*Host) // digest 0: any version
	strips := newStripAudit(v, hosts[0].Node().Directory())
	for _, h := range hosts {
		if err := h.Disk.Sound(); err != nil {
			return fmt.Errorf("host %d: %w", h.Number, err)
		}
		for _, e := range h.Disk.Entries() {
			if strips.add(h, e) {
				continue
			}
			if err := w.wanted(v, h, e); err != nil {
				return fmt.Errorf("host %d: object %s layer %d: %w", h.Number, e.Object, e.Layer, err)
			}
			held[e] = append(held[e], h)
		}
	}
	if err := strips.check(); err != nil {
		return err
	}
	dir := hosts[0].Node().Directory()
	for e, on := range held {
		f, _ := dir.Family(e.Object.Family)
		pl, _ := v.Placement(f.Policy, e.Object.Partition())
		if len(on) != len(pl.Acting) {
			return w.difference(e, on, pl)
		}
	}
	return nil
}

func sameDirectories(hosts []*Host) error {
	first, err := hosts[0].Node().Directory().Snapshot()
	if err != nil {
		return err
	}
	for _, h := range hosts[1:] {
		other, err := h.Node().Directory().Snapshot()
		if err != nil {
			return err
		}
		if !bytes.Equal(first, other) {
			return fmt.Errorf("the directories of nodes %d and %d differ", hosts[0].Number, h.Number)
		}
	}
	return nil
}

// wanted says why an object should not be on a host.
func (w *World) wanted(v *sheepdog.View, h *Host, e sheepdog.ListEntry) error {
	dir := h.Node().Directory()
	l, ok := dir.Layer(e.Layer)
	if !ok {
		return errors.New("the directory does not list the layer")
	}
	if l.Family != e.Object.Family {
		return fmt.Errorf("the layer is of family %d", l.Family)
	}
	f, ok := dir.Family(l.Family)
	if !ok {
		return errors.New("the directory does not list the family")
	}
	pl, ok := v.Placement(f.Policy, e.Object.Partition())
	if !ok || !pl.IsActing(sheepdog.NodeID(h.Number)) {
		return errors.New("the node does not act for its partition")
	}
	return nil
}

// difference says which block of an object is not the same everywhere.
func (w *World) difference(e sheepdog.ListEntry, on []*Host, pl *sheepdog.Placement) error {
	for no := range sheepdog.BlockNo(1 << (objectShift - 12)) {
		text, first, same := "", sheepdog.Record{}, true
		for i, id := range pl.Acting {
			rec, data := w.hosts[id-1].Disk.Block(e.Object, e.Layer, no)
			if i == 0 {
				first = rec
			}
			same = same && rec == first
			v := uint64(0)
			if data != nil {
				v = binary.LittleEndian.Uint64(data)
			}
			text += fmt.Sprintf(", host %d has state %d stamp %d.%d value %d", id, rec.State, rec.Stamp.Token, rec.Stamp.Seq, v)
		}
		if !same {
			return fmt.Errorf("object %s layer %d block %d%s", e.Object, e.Layer, no, text)
		}
	}
	return fmt.Errorf("object %s layer %d is on %d hosts, %d act", e.Object, e.Layer, len(on), len(pl.Acting))
}

// FinalLook has every VDI read and every snapshot looked at through every node,
// flushed and closed, and compares the directory with the ledger.
func (w *World) FinalLook(l *Ledger) {
	w.t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*callLimit, errStalled)
	defer cancel()
	for _, h := range w.Up() {
		for _, name := range l.Names() {
			if err := w.finalLook(ctx, l, h, name); err != nil {
				l.Fault(fmt.Errorf("final look at %s through node %d: %w", name, h.Number, err))
			}
		}
	}
}

func (w *World) finalLook(ctx context.Context, l *Ledger, h *Host, name string) error {
	n := h.Node()
	if err := n.Cluster().Barrier(ctx); err != nil {
		return err
	}
	_, err := n.Directory().Lookup(name)
	if err := l.Listed(name, nil, err == nil); err != nil {
		return err
	}
	if err == nil {
		if err := readAll(ctx, l, h, name); err != nil {
			return err
		}
	}
	for _, s := range l.Snaps(name) {
		_, err := n.Directory().LookupSnapshot(name, s.Tag)
		if err := l.Listed(name, s, err == nil); err != nil {
			return err
		}
		if err != nil {
			continue
		}
		p, err := readSnap(ctx, n, name, s.Tag)
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.Tag, err)
		}
		_ = l.SawSnap(s, p) // the ledger keeps what is wrong
	}
	return nil
}

func readAll(ctx context.Context, l *Ledger, h *Host, name string) error {
	vol, err := h.Node().VDIs().Open(name, "")
	if err != nil {
		return err
	}
	if err := l.Sized(name, vol.Size()); err != nil {
		return err
	}
	p := make([]byte, vol.Size())
	call := l.Read(-h.Number, name, len(p), 0)
	if err := vol.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	_ = call.Saw(p)
	return errors.Join(vol.Flush(ctx), vol.Close(ctx))
}
