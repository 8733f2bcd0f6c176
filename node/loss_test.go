package node

import (
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/vdi/directory"
)

var lossPolicy = sheepdog.Policy{Copies: 1}

// lossWorld has the VDI base, written, with a snapshot; its clone vm, written;
// and empty, which never was. Node 1 + p%3 has the one copy of partition p.
func lossWorld(t *testing.T) (*sheepdog.View, *directory.Directory, directory.Created) {
	t.Helper()
	dir, index := directory.New(), uint64(0)
	do := func(cmd directory.Command) []byte {
		t.Helper()
		kind, body, err := directory.Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		index++
		out, err := dir.Apply(index, kind, body)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		return out
	}
	create := func(name string) {
		do(&directory.Create{Name: name, Size: 30<<20 + 512, Policy: lossPolicy, BlockSizeShift: 22})
	}
	write := func(name string) {
		v, err := dir.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		do(&directory.Acquire{Family: v.Family, Node: 1, Incarnation: 1})
		f, _ := dir.Family(v.Family)
		do(&directory.MarkWritten{Layer: v.Layer, Token: f.Token})
	}
	create("base")
	write("base")
	f, _ := dir.Lookup("base")
	fam, _ := dir.Family(f.Family)
	do(&directory.Snapshot{Name: "base", Tag: "gold", IfToken: fam.Token})
	do(&directory.Clone{Source: "base", Snapshot: "gold", Name: "vm"})
	write("vm")
	create("empty")
	v := &sheepdog.View{Members: []sheepdog.Member{{ID: 1, Incarnation: 1, VNodes: 1}, {ID: 2, Incarnation: 1, VNodes: 1}, {ID: 3, Incarnation: 1, VNodes: 1}}}
	table := make(sheepdog.Table, sheepdog.Partitions)
	for p := range table {
		nodes := []sheepdog.NodeID{sheepdog.NodeID(1 + p%3)}
		table[p] = &sheepdog.Placement{Acting: nodes, Target: nodes, Since: 1}
	}
	v.Tables = map[sheepdog.Policy]sheepdog.Table{lossPolicy: table}
	base, _ := dir.Lookup("base")
	return v, dir, directory.Created{Family: base.Family}
}

// The report names exactly the objects in lost partitions, of a VDI and of what
// it is a clone of, and nothing of what was never written.
func TestLossNamesWhatIsLost(t *testing.T) {
	v, dir, base := lossWorld(t)
	vm, err := dir.Lookup("vm")
	if err != nil {
		t.Fatal(err)
	}
	lost := func(f sheepdog.FamilyID, i int) bool {
		return sheepdog.ObjectID{Family: f, Index: sheepdog.Index(i)}.Partition()%3 == 2
	}
	held := state.PartitionList{}
	for p := 2; p < sheepdog.Partitions/2; p += 3 {
		held = append(held, sheepdog.Partition(p))
	}
	r := newLoss(v, dir, assessment{Survivors: []sheepdog.NodeID{1, 2}, Held: held}).report()
	if len(r.Lost) != 1 || r.Lost[0].ID != 3 || r.Partitions != sheepdog.Partitions/3 || r.TotalPartitions != sheepdog.Partitions {
		t.Fatalf("lost %v, %d of %d partitions", r.Lost, r.Partitions, r.TotalPartitions)
	}
	if want := r.Partitions - len(held); r.EmptyPartitions != want {
		t.Errorf("%d empty partitions, want %d", r.EmptyPartitions, want)
	}
	named := make(map[string]map[int]bool)
	for _, d := range r.VDIs {
		key := d.Name
		if d.SnapshotID > 0 {
			key += "@" + d.Tag
		}
		named[key] = make(map[int]bool)
		var sum uint64
		for _, part := range d.Ranges {
			sum += part.Length
			for at := part.Offset; at < part.Offset+part.Length; at += 4 << 20 {
				named[key][int(at>>22)] = true
			}
		}
		if sum != d.Bytes || d.Ranges[len(d.Ranges)-1].Offset+d.Ranges[len(d.Ranges)-1].Length > 30<<20+512 {
			t.Errorf("%s: %d bytes in ranges %v", key, d.Bytes, d.Ranges)
		}
	}
	for i := range 8 {
		if got, want := named["base@gold"][i], lost(base.Family, i); got != want {
			t.Errorf("base@gold, object %d: named %t, lost %t", i, got, want)
		}
		if got, want := named["vm"][i], lost(vm.Family, i) || lost(base.Family, i); got != want {
			t.Errorf("vm, object %d: named %t, lost %t", i, got, want)
		}
	}
	if _, ok := named["empty"]; ok {
		t.Error("a VDI without data is named")
	}
	if all := newLoss(v, dir, assessment{Survivors: []sheepdog.NodeID{1, 2, 3}}).report(); all.Partitions != 0 || len(all.VDIs) != 0 || len(all.Lost) != 0 {
		t.Errorf("with everybody here: %+v", all)
	}
}

// Who stands in for the lost: targets first, no more than there are copies, and
// only in lost partitions.
func TestLossChoosesHolders(t *testing.T) {
	v, dir, _ := lossWorld(t)
	table := v.Tables[lossPolicy]
	for p := 2; p < sheepdog.Partitions; p += 3 {
		table[p] = &sheepdog.Placement{Acting: []sheepdog.NodeID{3}, Target: []sheepdog.NodeID{2}, Since: 2}
	}
	l := newLoss(v, dir, assessment{Survivors: []sheepdog.NodeID{1, 2}})
	ref := func(id sheepdog.NodeID) state.MemberRef { return state.MemberRef{ID: id, Incarnation: 1} }
	got := l.holders(lossPolicy, map[state.MemberRef]state.PartitionList{ref(1): {0, 2, 5, 8}, ref(2): {1, 2, 3}})
	if len(got) != 2 || !slices.Equal(got[0].Partitions, state.PartitionList{5, 8}) || !slices.Equal(got[1].Partitions, state.PartitionList{2}) {
		t.Errorf("holders %+v", got)
	}
}

// Of erasure coded data the report names what lost more strips than there is
// parity; what is written to them since is in replicas, of which one is enough.
func TestLossOfStrips(t *testing.T) {
	v, dir, _ := lossWorld(t)
	policy, index := sheepdog.Policy{Copies: 2, Parity: 1}, uint64(1000)
	do := func(cmd directory.Command) {
		t.Helper()
		kind, body, err := directory.Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		index++
		if _, err := dir.Apply(index, kind, body); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	do(&directory.Create{Name: "coded", Size: 8 << 20, Policy: policy, BlockSizeShift: 22})
	e, _ := dir.Lookup("coded")
	do(&directory.Acquire{Family: e.Family, Node: 1, Incarnation: 1})
	f, _ := dir.Family(e.Family)
	do(&directory.MarkWritten{Layer: e.Layer, Token: f.Token})
	do(&directory.Recode{Layer: e.Layer, Policy: policy, Encoder: directory.Coordinator{Node: 1, Incarnation: 1}, Freeze: true, IfToken: f.Token})
	l, _ := dir.Layer(e.Layer)
	do(&directory.Recoded{Layer: e.Layer, Coded: l.Recoding, Objects: 2})
	do(&directory.Retire{Layer: e.Layer})
	table := make(sheepdog.Table, sheepdog.Partitions)
	for p := range table {
		table[p] = &sheepdog.Placement{Acting: []sheepdog.NodeID{1, 2}, Target: []sheepdog.NodeID{1, 2}, Since: 1}
	}
	for i := range v.Members {
		v.Members[i].Zone = sheepdog.Zone(i)
	}
	v.Tables = map[sheepdog.Policy]sheepdog.Table{policy: table}
	coded := l.Recoding
	strips := func(of ...directory.IndexList) stripLists {
		out := stripLists{}
		for k, list := range of {
			out[coded+sheepdog.LayerID(k)] = list
		}
		return out
	}
	check := func(what string, held stripLists, bytes uint64, objects directory.IndexList, left uint64) {
		t.Helper()
		loss := newLoss(v, dir, assessment{Survivors: []sheepdog.NodeID{1}, Strips: held})
		r := loss.report()
		var got uint64
		for _, d := range r.VDIs {
			if d.Name == "coded" {
				got += d.Bytes
				for _, part := range d.Ranges {
					if !part.Fails || part.Old {
						t.Errorf("%s: %+v", what, part)
					}
				}
			}
		}
		o := loss.strips[coded]
		if got != bytes || r.Partitions != 0 || (len(r.Stuck) > 0) != (bytes > 0) || !slices.Equal(o.objects, objects) || bytes > 0 && o.left != left {
			t.Errorf("%s: %d bytes lost, %d partitions, stuck %v, objects %v, %d left", what, got, r.Partitions, r.Stuck, o.objects, o.left)
		}
	}
	all := directory.IndexList{0, 1}
	check("all strips", strips(all, all, all), 0, nil, 0)
	check("two of three", strips(nil, all, all), 0, nil, 0)
	check("one object without two strips", strips(directory.IndexList{0}, all, directory.IndexList{0}), 4<<20, directory.IndexList{1}, 1)
	check("an object without strips", strips(directory.IndexList{1}, nil, directory.IndexList{1}), 4<<20, directory.IndexList{0}, 1)
	check("nothing", nil, 8<<20, all, 0)
	do(&directory.Lose{Layer: coded, Objects: directory.IndexList{1}, Left: 1})
	check("what is marked already", strips(directory.IndexList{0}, all, directory.IndexList{0}), 0, nil, 0)
	check("more than is marked", strips(nil, all, nil), 4<<20, directory.IndexList{0}, 0)
}

// A partition whose last acting replica that is left lacks a disk, and that waits
// for one that is lost, may have lost data. Once it was made equal it has all.
func TestLossCountsReplicasThatLackADisk(t *testing.T) {
	v, dir, _ := lossWorld(t)
	v.Members = []sheepdog.Member{{ID: 1, Incarnation: 2, VNodes: 1, Incomplete: true}, {ID: 2, Incarnation: 2, VNodes: 1}}
	for _, c := range []struct {
		acting []sheepdog.NodeID
		state  sheepdog.PartitionState
		lost   bool
	}{
		{[]sheepdog.NodeID{1, 3}, sheepdog.Unclean, true},
		{[]sheepdog.NodeID{1, 3}, sheepdog.Clean, false},
		{[]sheepdog.NodeID{2, 3}, sheepdog.Unclean, false},
		{[]sheepdog.NodeID{1, 2, 3}, sheepdog.Unclean, false},
		{[]sheepdog.NodeID{1}, sheepdog.Unclean, false},
		{[]sheepdog.NodeID{3}, sheepdog.Clean, true},
	} {
		for p := range v.Tables[lossPolicy] {
			v.Tables[lossPolicy][p] = &sheepdog.Placement{Acting: c.acting, Target: c.acting, Since: 1, State: c.state}
		}
		if got := len(newLoss(v, dir, assessment{Survivors: []sheepdog.NodeID{1, 2}}).lost[lossPolicy]); (got > 0) != c.lost {
			t.Errorf("acting %v, state %v: %d partitions are lost, want %v", c.acting, c.state, got, c.lost)
		}
		if got := waitsForLost(v); got != c.lost {
			t.Errorf("acting %v, state %v: waits for lost ones %v, want %v", c.acting, c.state, got, c.lost)
		}
	}
}
