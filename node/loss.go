package node

import (
	"slices"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster/state"
	"sheepdog/vdi/directory"
)

// loss is what the loss of nodes costs: a pure function of a view, a directory,
// and who is left.
type loss struct {
	view      *sheepdog.View
	dir       *directory.Directory
	survivors map[sheepdog.NodeID]bool
	held      map[sheepdog.Partition]bool // survivors have anything of it
	lost      map[sheepdog.Policy]map[sheepdog.Partition]bool
	strips    map[sheepdog.LayerID]lostObjects // of coded layers
}

// maxRanges bounds the ranges that are listed of one VDI.
const maxRanges = 1000

func newLoss(v *sheepdog.View, dir *directory.Directory, a assessment) *loss {
	l := &loss{view: v, dir: dir, survivors: make(map[sheepdog.NodeID]bool), held: make(map[sheepdog.Partition]bool),
		lost: make(map[sheepdog.Policy]map[sheepdog.Partition]bool)}
	for _, id := range a.Survivors {
		l.survivors[id] = true
	}
	for _, p := range a.Held {
		l.held[p] = true
	}
	for policy := range v.Tables {
		l.lost[policy] = make(map[sheepdog.Partition]bool)
		for p, pl := range v.Tables[policy] {
			if l.gone(pl) {
				l.lost[policy][sheepdog.Partition(p)] = true
			}
		}
	}
	l.strips = l.lostStrips(a.Strips)
	return l
}

// gone reports whether none of the last acting replicas is left, or only some that
// lack a disk: one that is left has every write that was acknowledged and flushed.
func (l *loss) gone(pl *sheepdog.Placement) bool { return state.Lost(pl, l.survivor) }

// survivor is a member that is left; one that is none yet is taken to be whole.
func (l *loss) survivor(id sheepdog.NodeID) (sheepdog.Member, bool) {
	m, _ := l.view.Member(id)
	return m, l.survivors[id]
}

// report is the part of a report that follows from the state.
func (l *loss) report() *api.ForceReport {
	r := new(api.ForceReport)
	for _, m := range l.view.Members {
		if !l.survivors[m.ID] {
			r.Lost = append(r.Lost, apiNode(m))
		}
	}
	r.Lost = append(r.Lost, l.awaited()...)
	for _, set := range l.lost {
		r.TotalPartitions += sheepdog.Partitions
		r.Partitions += len(set)
		for p := range set {
			if !l.held[p] {
				r.EmptyPartitions++
			}
		}
	}
	for id := range l.strips {
		layer, _ := l.dir.Coded(id)
		if f, _ := l.dir.Family(layer.Family); !slices.Contains(r.Stuck, f.Policy.Guests()) {
			r.Stuck = append(r.Stuck, f.Policy.Guests())
		}
	}
	if r.Partitions == 0 && len(r.Stuck) == 0 {
		return r
	}
	for _, e := range l.dir.List() {
		if d := l.damage(e); d.Bytes > 0 {
			r.VDIs = append(r.VDIs, d)
		}
	}
	return r
}

// awaited are nodes that left the view before, and that partitions wait for.
func (l *loss) awaited() (out []api.Node) {
	seen := make(map[sheepdog.NodeID]bool)
	for policy, set := range l.lost {
		for p := range set {
			for _, id := range l.view.Tables[policy][p].Acting {
				if _, member := l.view.Member(id); !member && !l.survivors[id] && !seen[id] {
					seen[id] = true
					out = append(out, api.Node{ID: id})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b api.Node) int { return slices.Compare([]byte(a.ID.String()), []byte(b.ID.String())) })
	return out
}

// damage lists the ranges of a VDI or snapshot whose objects, of its own family
// or of one below it, are in lost partitions, or lost too many strips.
func (l *loss) damage(e directory.Entry) api.DamagedVDI {
	d := api.DamagedVDI{Name: e.Name, SnapshotID: e.SnapID, Tag: e.Tag, VID: api.VID(e.VID)}
	families := l.families(e.Layer)
	step := uint64(1) << e.BlockSizeShift
	for at := uint64(0); at < e.Size; at += step {
		part, hit := l.hit(families, sheepdog.Index(at>>e.BlockSizeShift))
		if !hit {
			continue
		}
		n := min(step, e.Size-at)
		d.Bytes += n
		last := len(d.Ranges) - 1
		switch {
		case last >= 0 && d.Ranges[last].Offset+d.Ranges[last].Length == at && d.Ranges[last].Old == part.Old && d.Ranges[last].Fails == part.Fails:
			d.Ranges[last].Length += n
		case len(d.Ranges) == maxRanges:
			d.MoreRanges++
		default:
			part.Offset, part.Length = at, n
			d.Ranges = append(d.Ranges, part)
		}
	}
	return d
}

// placed is a family and what it lost: the partitions of its policy, or objects of
// its coded layer.
type placed struct {
	id      sheepdog.FamilyID
	lost    map[sheepdog.Partition]bool
	objects directory.IndexList
}

// families are those that a layer is read through, its own and its bases', as
// far as they may have data.
func (l *loss) families(layer sheepdog.LayerID) (out []placed) {
	for layer != 0 {
		chain, ok := l.dir.Chain(layer)
		if !ok {
			break
		}
		top, _ := l.dir.Layer(layer)
		f, ok := l.dir.Family(top.Family)
		if ok && (len(chain) > 1 || top.Written) {
			out = append(out, placed{f.ID, l.lost[f.Policy], l.strips[layer].objects})
		}
		base, _, ok := l.dir.BaseOf(layer)
		if !ok {
			break
		}
		layer = base
	}
	return out
}

func (l *loss) hit(families []placed, index sheepdog.Index) (part api.DamagedPart, hit bool) {
	for _, f := range families {
		p := sheepdog.ObjectID{Family: f.id, Index: index}.Partition()
		if f.lost[p] {
			hit = true
			part.Old = part.Old || l.held[p]
		}
		if f.objects.Has(index) {
			hit, part.Fails = true, true
		}
	}
	return part, hit
}

// holders says which survivors stand in for the last acting replicas of a
// policy: of each partition at most as many as it has copies, targets first.
func (l *loss) holders(policy sheepdog.Policy, held map[state.MemberRef]state.PartitionList) []state.Holder {
	taken := make(map[sheepdog.Partition]int)
	lists := make(map[sheepdog.NodeID]state.PartitionList)
	refs := make(map[sheepdog.NodeID]state.MemberRef)
	for _, target := range []bool{true, false} {
		for _, m := range l.view.Members {
			ref := state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}
			refs[m.ID] = ref
			for _, p := range held[ref] {
				pl := l.view.Tables[policy][p]
				if !l.lost[policy][p] || slices.Contains(pl.Target, m.ID) != target || taken[p] >= policy.Width() {
					continue
				}
				taken[p]++
				lists[m.ID] = append(lists[m.ID], p)
			}
		}
	}
	var out []state.Holder
	for id, list := range lists {
		slices.Sort(list)
		out = append(out, state.Holder{MemberRef: refs[id], Partitions: list})
	}
	slices.SortFunc(out, func(a, b state.Holder) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}
