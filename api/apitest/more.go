package apitest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"sheepdog"
	"sheepdog/api"
)

// maintained is the state behind what operators change on a node.
type maintained struct {
	attrs    map[string]map[string][]byte // by attrKey
	limits   map[string]api.Limits        // by VDI name
	throttle api.Throttle
	trash    api.TrashList
	trashed  []*disk
	level    string
}

func (b *Backend) Attribute(_ context.Context, name string, snapshot api.Selector, key string) ([]byte, error) {
	unlock, err := b.begin("Attribute")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := b.need(name, snapshot); err != nil {
		return nil, err
	}
	v, ok := b.kept.attrs[attrKey(name, snapshot)][key]
	if !ok {
		return nil, noAttribute(name, key)
	}
	return v, nil
}

// attrKey is where the fake has the attributes of a VDI, or of a snapshot as it
// was asked for.
func attrKey(name string, snapshot api.Selector) string { return name + "@" + string(snapshot) }

func (b *Backend) Limits(_ context.Context, name string) (*api.Limits, error) {
	unlock, err := b.begin("Limits")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := b.need(name, ""); err != nil {
		return nil, err
	}
	l := b.kept.limits[name]
	l.Name = name
	return &l, nil
}

func (b *Backend) SetLimits(_ context.Context, l *api.Limits) error {
	unlock, err := b.begin("SetLimits")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := b.need(l.Name, ""); err != nil {
		return err
	}
	if b.kept.limits == nil {
		b.kept.limits = make(map[string]api.Limits)
	}
	b.kept.limits[l.Name] = *l
	return nil
}

func noAttribute(name, key string) error {
	return fmt.Errorf("attribute %q of VDI %q: %w", key, name, sheepdog.ErrNotFound)
}

func (b *Backend) Attributes(_ context.Context, name string, snapshot api.Selector) ([]string, error) {
	unlock, err := b.begin("Attributes")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := b.need(name, snapshot); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(b.kept.attrs[attrKey(name, snapshot)])), nil
}

func (b *Backend) SetAttribute(_ context.Context, req *api.SetAttributeRequest) error {
	unlock, err := b.begin("SetAttribute")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := b.need(req.Name, req.Snapshot); err != nil {
		return err
	}
	_, found := b.kept.attrs[attrKey(req.Name, req.Snapshot)][req.Key]
	switch {
	case req.Delete && !found:
		return noAttribute(req.Name, req.Key)
	case req.Delete:
		delete(b.kept.attrs[attrKey(req.Name, req.Snapshot)], req.Key)
		return nil
	case req.Exclusive && found:
		return fmt.Errorf("attribute %q %w", req.Key, sheepdog.ErrExists)
	}
	if b.kept.attrs == nil {
		b.kept.attrs = make(map[string]map[string][]byte)
	}
	if b.kept.attrs[attrKey(req.Name, req.Snapshot)] == nil {
		b.kept.attrs[attrKey(req.Name, req.Snapshot)] = make(map[string][]byte)
	}
	b.kept.attrs[attrKey(req.Name, req.Snapshot)][req.Key] = append([]byte{}, req.Value...)
	return nil
}

func (b *Backend) SetVDICopies(_ context.Context, req *api.VDICopiesRequest) error {
	unlock, err := b.begin("SetVDICopies")
	if err != nil {
		return err
	}
	defer unlock()
	if b.find(req.Name, req.Snapshot) == nil {
		return fmt.Errorf("VDI %q: %w", req.Name, sheepdog.ErrNotFound)
	}
	return nil
}

func (b *Backend) RenameVDI(_ context.Context, req *api.RenameRequest) error {
	unlock, err := b.begin("RenameVDI")
	if err != nil {
		return err
	}
	defer unlock()
	found := false
	for _, d := range b.vdis {
		if d.Name == req.NewName {
			return fmt.Errorf("VDI %q %w", req.NewName, sheepdog.ErrExists)
		}
		found = found || d.Name == req.Name
	}
	if !found {
		return fmt.Errorf("VDI %q: %w", req.Name, sheepdog.ErrNotFound)
	}
	for _, d := range b.vdis {
		if d.Name == req.Name {
			d.Name = req.NewName
		}
	}
	return nil
}

func (b *Backend) CopyVDI(ctx context.Context, req *api.CloneRequest, report func(api.CopyProgress) error) (*api.VDI, error) {
	v, err := b.CloneVDI(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := report(api.CopyProgress{DoneBytes: v.SizeBytes, TotalBytes: v.SizeBytes}); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.find(req.Name, "")
	d.Clone, d.ParentID, d.OwnObjects, d.SharedObjects = false, 0, d.SharedObjects, 0
	out := d.VDI
	return &out, nil
}

func (b *Backend) Locks(context.Context) ([]api.Lock, error) {
	unlock, err := b.begin("Locks")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return b.Locked, nil
}

func (b *Backend) Unlock(_ context.Context, req *api.UnlockRequest) error {
	unlock, err := b.begin("Unlock")
	if err != nil {
		return err
	}
	defer unlock()
	d, err := b.need(req.Name, "")
	if err != nil {
		return err
	}
	n := len(b.Locked)
	b.Locked = slices.DeleteFunc(b.Locked, func(l api.Lock) bool { return l.Name == req.Name })
	if len(b.Locked) == n {
		return api.NotLocked(req.Name, d.ID)
	}
	return nil
}

// object finds what a query is about. The fake has one object per VDI, written
// by its root: index 0.
func (b *Backend) object(q *api.ObjectQuery) (*disk, api.ObjectID, error) {
	d, err := b.need(q.Name, q.Snapshot)
	if err != nil {
		return nil, api.ObjectID{}, err
	}
	owner := d
	for owner.OwnObjects == 0 {
		i := slices.IndexFunc(b.vdis, func(o *disk) bool { return o.ID == owner.ParentID })
		if i < 0 {
			break
		}
		owner = b.vdis[i]
	}
	return d, api.ObjectID{Owner: owner.ID, Index: q.Index}, nil
}

func (b *Backend) LocateObject(_ context.Context, q *api.ObjectQuery) (*api.ObjectLocation, error) {
	unlock, err := b.begin("LocateObject")
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, id, err := b.object(q)
	if err != nil {
		return nil, err
	}
	out := &api.ObjectLocation{Name: q.Name, ID: d.ID, Index: q.Index, Copies: d.Copies, Allocated: q.Index == 0, Object: id}
	for i, n := range b.NodeList {
		out.Nodes = append(out.Nodes, api.ObjectNode{Node: n, Holds: q.Index == 0 && i != 1})
		out.Wanted = append(out.Wanted, n.Addr)
	}
	return out, nil
}

func (b *Backend) MapObjects(_ context.Context, q *api.ObjectQuery) (*api.ObjectMap, error) {
	unlock, err := b.begin("MapObjects")
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, id, err := b.object(q)
	if err != nil {
		return nil, err
	}
	out := &api.ObjectMap{Name: q.Name, ID: d.ID}
	if q.Index == 0 {
		out.Objects = []api.MappedObject{{Owner: id.Owner}}
	}
	return out, nil
}

func (b *Backend) TrackObject(_ context.Context, q *api.ObjectQuery) (*api.ObjectTrack, error) {
	unlock, err := b.begin("TrackObject")
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, id, err := b.object(q)
	if err != nil {
		return nil, err
	}
	out := &api.ObjectTrack{Name: q.Name, ID: d.ID, Index: q.Index, Object: id, Copies: d.Copies}
	for _, h := range b.Info.History {
		e := api.ObjectEpoch{Epoch: h.Epoch, Time: h.Time}
		for _, m := range h.Members {
			e.Addrs = append(e.Addrs, m.Addr)
		}
		out.Epochs = append(out.Epochs, e)
	}
	return out, nil
}

func (b *Backend) ChangedObjects(_ context.Context, q *api.ChangeQuery) (*api.ChangeList, error) {
	unlock, err := b.begin("ChangedObjects")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var from *disk
	if q.From != "" {
		if from, err = b.need(q.Name, q.From); err != nil {
			return nil, err
		}
	}
	d, err := b.need(q.Name, q.To)
	if err != nil {
		return nil, err
	}
	out := &api.ChangeList{}
	for i := uint64(q.Index); i<<d.BlockSizeShift < min(d.SizeBytes, maxDisk); i++ {
		if from == nil || !bytes.Equal(from.object(i), d.object(i)) {
			out.Indexes = append(out.Indexes, uint32(i))
		}
	}
	return out, nil
}

// object is what an object of the disk has, without the zeros at its end.
func (d *disk) object(index uint64) []byte {
	rest := d.data[min(index<<d.BlockSizeShift, uint64(len(d.data))):]
	return bytes.TrimRight(rest[:min(1<<d.BlockSizeShift, len(rest))], "\x00")
}

func (b *Backend) SetCopies(_ context.Context, req *api.CopiesRequest) error {
	unlock, err := b.begin("SetCopies")
	if err != nil {
		return err
	}
	defer unlock()
	b.Info.Config.Policy = req.Copies
	return nil
}

func (b *Backend) Reweight(context.Context) error {
	unlock, err := b.begin("Reweight")
	if err != nil {
		return err
	}
	unlock()
	return nil
}

func (b *Backend) SetVNodes(_ context.Context, req *api.VNodesRequest) error {
	unlock, err := b.begin("SetVNodes")
	if err != nil {
		return err
	}
	defer unlock()
	if !b.Info.Config.FixedVNodes {
		return fmt.Errorf("weights follow the space: %w", sheepdog.ErrInvalid)
	}
	for i := range b.NodeList {
		if b.NodeList[i].ID == b.Self {
			b.NodeList[i].VNodes = req.VNodes
		}
	}
	return nil
}

func (b *Backend) Throttle(context.Context) (*api.Throttle, error) {
	unlock, err := b.begin("Throttle")
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := b.kept.throttle
	return &t, nil
}

func (b *Backend) SetThrottle(_ context.Context, t *api.Throttle) error {
	unlock, err := b.begin("SetThrottle")
	if err != nil {
		return err
	}
	defer unlock()
	b.kept.throttle = *t
	return nil
}

func (b *Backend) LogLevel(context.Context) (*api.LogLevel, error) {
	unlock, err := b.begin("LogLevel")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if b.kept.level == "" {
		return &api.LogLevel{Level: "info"}, nil
	}
	return &api.LogLevel{Level: b.kept.level}, nil
}

func (b *Backend) SetLogLevel(_ context.Context, l *api.LogLevel) error {
	unlock, err := b.begin("SetLogLevel")
	if err != nil {
		return err
	}
	defer unlock()
	b.kept.level = l.Level
	return nil
}

func (b *Backend) Metrics(context.Context) ([]byte, error) {
	unlock, err := b.begin("Metrics")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return []byte(b.Exposed), nil
}

func (b *Backend) Stats(context.Context) (*api.Stats, error) {
	unlock, err := b.begin("Stats")
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := b.Counted
	return &s, nil
}

// PlugDisks and UnplugDisks change the list of all nodes alike.
func (b *Backend) PlugDisks(_ context.Context, req *api.DisksRequest) error {
	unlock, err := b.begin("PlugDisks")
	if err != nil {
		return err
	}
	defer unlock()
	for _, p := range req.Paths {
		if slices.Contains(b.Plugged, p) {
			return fmt.Errorf("disk %s: %w", p, sheepdog.ErrExists)
		}
		b.Plugged = append(b.Plugged, p)
	}
	return nil
}

func (b *Backend) UnplugDisks(_ context.Context, req *api.DisksRequest) error {
	unlock, err := b.begin("UnplugDisks")
	if err != nil {
		return err
	}
	defer unlock()
	for _, p := range req.Paths {
		i := slices.Index(b.Plugged, p)
		if i < 0 {
			return fmt.Errorf("disk %s: %w", p, sheepdog.ErrNotFound)
		}
		b.Plugged = slices.Delete(b.Plugged, i, i+1)
	}
	return nil
}

func (b *Backend) Disks(_ context.Context, all bool) (*api.DiskList, error) {
	unlock, err := b.begin("Disks")
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := &api.DiskList{}
	for _, n := range b.NodeList {
		if all || n.ID == b.Self {
			disks := []api.Disk{{Path: "/var/lib/sheepdog/obj", UsedBytes: 10762842112, FreeBytes: 37917716480, State: "ok"}}
			for _, p := range b.Plugged {
				disks = append(disks, api.Disk{Path: p, FreeBytes: 37917716480, State: "ok"})
			}
			out.Nodes = append(out.Nodes, api.NodeDisks{Node: n, Disks: disks})
		}
	}
	return out, nil
}
