package state

import (
	"slices"

	"pgregory.net/rapid"

	"sheepdog"
)

const driverNodes = 5 // ids 1 to 5; few, so that things happen to the same ones

// command draws one that is likely to mean something in the present state.
func (d *driver) command(t *rapid.T) Command {
	if !d.a.Formatted() {
		return Command{Format: d.formatCommand(t)}
	}
	switch n := rapid.IntRange(0, 99).Draw(t, "kind"); {
	case n < 50:
		return Command{Change: d.changeCommand(t)}
	case n < 75:
		m, policy, items := d.stepCommand(t)
		return Command{Promote: &Promote{Policy: policy, Node: m.ID, Incarnation: m.Incarnation, Items: items}}
	case n < 90:
		m, policy, items := d.stepCommand(t)
		return Command{Clean: &Clean{Policy: policy, Node: m.ID, Incarnation: m.Incarnation, Items: items}}
	case n < 94:
		return Command{Table: &AddTable{Policy: drawPolicy(t)}}
	case n < 97:
		policy, off := drawPolicy(t), rapid.Bool().Draw(t, "recovery off")
		return Command{Configure: &Configure{Policy: &policy, RecoveryDisabled: &off}}
	}
	return Command{Format: d.formatCommand(t)}
}

func drawPolicy(t *rapid.T) sheepdog.Policy {
	return sheepdog.Policy{Copies: rapid.Uint8Range(1, 3).Draw(t, "copies")}
}

func (d *driver) formatCommand(t *rapid.T) *Format {
	f := &Format{
		Cluster: sheepdog.ClusterID{7},
		Config:  sheepdog.Config{Policy: drawPolicy(t), BlockSizeShift: sheepdog.DefaultObjectShift},
		Time:    d.clock,
		Members: []sheepdog.Member{d.incarnate(t, 1)},
	}
	f.Members[0].VNodes = 1 // somebody must store
	for id := uint64(2); id <= driverNodes; id++ {
		if rapid.IntRange(0, 3).Draw(t, "formatted") > 0 {
			f.Members = append(f.Members, d.incarnate(t, id))
		}
	}
	return f
}

// incarnate starts a new process of a node.
func (d *driver) incarnate(t *rapid.T, id uint64) sheepdog.Member {
	d.nextID++
	return sheepdog.Member{
		ID:          sheepdog.NodeID(id),
		Incarnation: sheepdog.Incarnation(d.nextID),
		Zone:        sheepdog.Zone(id / 2),
		VNodes:      rapid.SampledFrom([]uint16{128, 128, 128, 64, 0}).Draw(t, "vnodes"),
	}
}

func (d *driver) changeCommand(t *rapid.T) *Change {
	c := &Change{Time: d.clock, Reason: "test"}
	for id := uint64(1); id <= driverNodes; id++ {
		m, ok := d.a.member(sheepdog.NodeID(id))
		ref := MemberRef{ID: m.ID, Incarnation: m.Incarnation}
		switch rapid.SampledFrom([]string{"join", "remove", "confirm", "confirm", "weight", "none", "none"}).Draw(t, "fate") {
		case "join":
			c.Join = append(c.Join, d.incarnate(t, id))
		case "remove":
			if ok {
				c.Remove = append(c.Remove, ref)
			}
		case "confirm":
			if ok {
				c.Confirmed = append(c.Confirmed, ref)
			}
		case "weight":
			c.Weights = append(c.Weights, Weight{ID: sheepdog.NodeID(id), VNodes: rapid.Uint16Range(0, 3).Draw(t, "weight") * 64})
		}
	}
	return c
}

// stepCommand draws who promotes or cleans how much of which table, now and
// then with a Since of the past.
func (d *driver) stepCommand(t *rapid.T) (sheepdog.Member, sheepdog.Policy, []PartitionSince) {
	m := rapid.SampledFrom(d.a.members).Draw(t, "node")
	table := rapid.SampledFrom(d.a.tables).Draw(t, "table")
	stride := rapid.SampledFrom([]int{97, 997, 9973}).Draw(t, "stride")
	late := sheepdog.Revision(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "late"))
	var items []PartitionSince
	for p := 0; p < sheepdog.Partitions; p += stride {
		items = append(items, PartitionSince{Partition: sheepdog.Partition(p), Since: table.rows[p].Since - late})
	}
	if slices.Contains([]int{1, 2}, stride%5) {
		slices.Reverse(items)
	}
	return m, table.policy, items
}
