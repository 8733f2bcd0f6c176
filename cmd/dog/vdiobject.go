package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// objectOptions are -i and -s of the commands on objects.
type objectOptions struct {
	index    string
	snapshot api.Selector
}

func (o *objectOptions) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&o.index, "index", "i", "", "number of the object in the VDI, decimal or 0x and hex digits")
	snapshotFlag(cmd, &o.snapshot)
	return cmd
}

// query is the object that the options name; false without -i.
func (o *objectOptions) query(name string) (q *api.ObjectQuery, indexed bool, err error) {
	q = &api.ObjectQuery{Name: name, Snapshot: o.snapshot}
	if o.index == "" {
		return q, false, nil
	}
	n, err := strconv.ParseUint(o.index, 0, 32)
	if err != nil {
		return nil, false, badUsage(fmt.Errorf("Invalid object index '%s': want 0 to 4294967295", o.index))
	}
	q.Index = uint32(n)
	return q, true, nil
}

func (d *dog) vdiObject() *cobra.Command {
	return d.subgroup("object", "Objects of a VDI", d.objectLocation(), d.objectMap())
}

func (d *dog) objectLocation() *cobra.Command {
	o := &objectOptions{}
	return o.flags(&cobra.Command{Use: "location [-i <index>] [-s <snapshot>] <vdiname>", Short: "Show which nodes have an object, and which should", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			q, indexed, err := o.query(args[0])
			if err != nil {
				return err
			}
			if !indexed {
				return d.inodeLocation(ctx, c, q)
			}
			l, err := c.LocateObject(ctx, q)
			if err != nil {
				return failed(err, "locate object %d of VDI %s", q.Index, q.Name)
			}
			switch {
			case d.json():
				return d.document(l)
			case !l.Allocated:
				return d.print(fmt.Sprintf("The inode object 0x%s idx %d is not allocated\n", l.ID, l.Index))
			}
			return d.print(show.Location(l, d.raw))
		})})
}

// inodeLocation is about the VDI as such.
func (d *dog) inodeLocation(ctx context.Context, c *api.Client, q *api.ObjectQuery) error {
	v, err := findVDI(ctx, c, q.Name, q.Snapshot)
	if err != nil {
		return failed(err, "locate VDI %s", q.Name)
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return failed(err, "get node list")
	}
	if d.json() {
		return d.document(api.NodeList{Version: api.Version, Nodes: nodes})
	}
	return d.print(show.InodeLocation(v, nodes))
}

func (d *dog) objectMap() *cobra.Command {
	o := &objectOptions{}
	return o.flags(&cobra.Command{Use: "map [-i <index>] [-s <snapshot>] <vdiname>", Short: "Show which VDI or snapshot has written each object", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			q, indexed, err := o.query(args[0])
			if err != nil {
				return err
			}
			if indexed {
				return d.mapOne(ctx, c, q)
			}
			return d.mapAll(ctx, c, q)
		})})
}

func (d *dog) mapOne(ctx context.Context, c *api.Client, q *api.ObjectQuery) error {
	l, err := c.LocateObject(ctx, q)
	if err != nil {
		return failed(err, "map object %d of VDI %s", q.Index, q.Name)
	}
	one := []api.MappedObject{{Index: q.Index, Owner: l.Object.Owner}}
	if d.json() {
		return d.document(api.ObjectMap{Version: api.Version, Name: l.Name, ID: l.ID, Objects: one})
	}
	return d.print(d.mapHeader() + show.ObjectMap(one))
}

func (d *dog) mapHeader() string {
	if d.raw {
		return ""
	}
	return show.ObjectMapHeader
}

func (d *dog) mapAll(ctx context.Context, c *api.Client, q *api.ObjectQuery) error {
	all := &api.ObjectMap{Version: api.Version, Objects: []api.MappedObject{}}
	if !d.json() {
		if err := d.print(d.mapHeader()); err != nil {
			return err
		}
	}
	err := mapPages(ctx, c, q, func(m *api.ObjectMap) error {
		if !d.json() {
			return d.print(show.ObjectMap(m.Objects))
		}
		all.Name, all.ID, all.Objects = m.Name, m.ID, append(all.Objects, m.Objects...)
		return nil
	})
	if err != nil || !d.json() {
		return failed(err, "map the objects of VDI %s", q.Name)
	}
	return d.document(all)
}

// mapPages visits the whole object map of a VDI.
func mapPages(ctx context.Context, c *api.Client, q *api.ObjectQuery, visit func(*api.ObjectMap) error) error {
	at := *q
	for {
		m, err := c.MapObjects(ctx, &at)
		if err != nil {
			return err
		}
		if err := visit(m); err != nil {
			return err
		}
		if !m.More || len(m.Objects) == 0 {
			return nil
		}
		at.Index = m.Objects[len(m.Objects)-1].Index + 1
	}
}

func (d *dog) vdiTrack() *cobra.Command {
	o := &objectOptions{}
	var object string
	cmd := o.flags(&cobra.Command{Use: "track [-i <index>] [-s <snapshot>] <vdiname>", Short: "Show where each epoch wanted an object", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI})
	run := d.with(func(ctx context.Context, c *api.Client, args []string) error {
		q, indexed, err := o.query(args[0])
		if err != nil {
			return err
		}
		if object != "" {
			var id api.ObjectID
			if err := id.UnmarshalText([]byte(object)); err != nil {
				return badUsage(fmt.Errorf("Invalid %w", err))
			}
			q.Index, indexed = id.Index, true
		}
		nodes, err := c.Nodes(ctx)
		if err != nil {
			return failed(err, "get node list")
		}
		if !indexed {
			return d.trackInode(ctx, c, q, len(nodes))
		}
		t, err := c.TrackObject(ctx, q)
		if err != nil {
			return failed(err, "track object %d of VDI %s", q.Index, q.Name)
		}
		if d.json() {
			return d.document(t)
		}
		return d.print(show.Track(t, len(nodes), d.raw))
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		object = d.takeObject()
		return run(cmd, args)
	}
	return cmd
}

func (d *dog) trackInode(ctx context.Context, c *api.Client, q *api.ObjectQuery, nodes int) error {
	v, err := findVDI(ctx, c, q.Name, q.Snapshot)
	if err != nil {
		return failed(err, "track VDI %s", q.Name)
	}
	cl, err := c.Cluster(ctx)
	if err != nil {
		return failed(err, "get cluster information")
	}
	if d.json() {
		return d.document(cl)
	}
	return d.print(show.InodeTrack(v, cl, nodes, d.raw))
}

// takeObject is the argument of -o where that means an object, as it did before
// output formats; empty if it is a format.
func (d *dog) takeObject() string {
	if d.output == "text" || d.output == "json" {
		return ""
	}
	object := d.output
	d.output = "text"
	return object
}

// existence is `vdi check -e`: whether every replica that should exist does.
func (d *dog) existence(ctx context.Context, c *api.Client, name string, snapshot api.Selector) error {
	q := &api.ObjectQuery{Name: name, Snapshot: snapshot}
	var mu sync.Mutex
	var missing []string
	lost, bar := 0, d.progress(func(n uint64) string { return fmt.Sprintf("%d objects", n) })
	defer bar.end()
	err := mapPages(ctx, c, q, func(m *api.ObjectMap) error {
		return eachObject(ctx, m.Objects, func(ctx context.Context, index uint32, done int) error {
			l, err := c.LocateObject(ctx, &api.ObjectQuery{Name: name, Snapshot: snapshot, Index: index})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if lines := absent(l); len(lines) > 0 {
				missing = append(missing, lines...)
				lost++
			}
			bar.draw(uint64(done), uint64(len(m.Objects)))
			return nil
		})
	})
	if err != nil {
		return failed(err, "check the objects of VDI %s", name)
	}
	return d.reportExistence(name, missing, lost)
}

// existenceReport is what `vdi check -e -o json` prints.
type existenceReport struct {
	Version int      `json:"version"`
	Name    string   `json:"name"`
	Missing []string `json:"missing"` // a sentence each
	Lost    int      `json:"lost"`    // objects that lack replicas
}

func (d *dog) reportExistence(name string, missing []string, lost int) error {
	slices.Sort(missing)
	if d.json() {
		if err := d.document(existenceReport{Version: api.Version, Name: name, Missing: append([]string{}, missing...), Lost: lost}); err != nil {
			return err
		}
	} else {
		for _, line := range missing {
			if err := d.print(line + "\n"); err != nil {
				return err
			}
		}
	}
	switch {
	case lost > 0 && d.json():
		return &failure{code: exitFailed}
	case lost > 0:
		if err := d.print(fmt.Sprintf("%s lost %d object(s).\n", name, lost)); err != nil {
			return err
		}
		return &failure{code: exitFailed}
	case d.json():
		return nil
	}
	return d.print(name + " is fine, no object is missing.\n")
}

// absent lists the nodes that should have an object and have not.
func absent(l *api.ObjectLocation) (lines []string) {
	if !l.Allocated {
		return nil // given back meanwhile
	}
	for i := range l.Nodes {
		n := &l.Nodes[i]
		if slices.Contains(l.Wanted, n.Addr) && !n.Holds {
			lines = append(lines, fmt.Sprintf("[%s] oid %s is missing.", n.Addr, l.Object))
		}
	}
	return lines
}

// askAtOnce is how many requests a command has under way.
const askAtOnce = 8

// eachObject calls visit for every object, several at a time, until one fails;
// done counts.
func eachObject(ctx context.Context, objects []api.MappedObject, visit func(ctx context.Context, index uint32, done int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(askAtOnce, len(objects)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > len(objects) || ctx.Err() != nil {
					return
				}
				if err := visit(ctx, objects[i-1].Index, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
