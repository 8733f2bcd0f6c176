package directory

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sheepdog"
)

// disk is one node's blocks by layer, as an object store keeps them.
type disk map[sheepdog.LayerID]map[int]int

// model compares the directory with the plainest idea of VDIs: each VDI and
// snapshot is a map of its own from block to value. Two nodes merge and drop
// layers on their own disks when they like.
type model struct {
	*world
	rt    *rapid.T
	twin  *Directory // gets the same commands and never restarts
	disks [2]disk
	jobs  map[sheepdog.LayerID]Recoding // by coded layer
	want  map[sheepdog.VID]map[int]int
	trash map[sheepdog.VID]map[int]int
	also  func(cmd Command, result []byte, err error) // told of every command; may be nil
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(rt)
		steps := m.steps()
		steps[""] = func(*rapid.T) { m.compare() }
		rt.Repeat(steps)
	})
}

func newModel(rt *rapid.T) *model {
	m := &model{world: newWorld(rt), rt: rt, twin: New(), want: map[sheepdog.VID]map[int]int{}, trash: map[sheepdog.VID]map[int]int{}, jobs: map[sheepdog.LayerID]Recoding{}}
	m.disks = [2]disk{{}, {}}
	m.recycle = rapid.Bool().Draw(rt, "recycle")
	return m
}

func (m *model) steps() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"create": m.create, "write": m.writeBlock, "snapshot": m.snapshot,
		"clone": m.clone, "delete": m.deleteVDI, "deleteSnapshot": m.deleteSnapshot,
		"rollback": m.rollback, "rename": m.rename, "mergeLocally": m.mergeLocally,
		"recode": m.recode, "recoded": m.recoded, "giveUp": m.giveUp, "retire": m.retire, "code": m.code,
		"group": m.group, "alter": m.alter, "flatten": m.flattenVDI, "toTrash": m.toTrash, "untrash": m.untrash, "purge": m.purge,
		"prune": m.prune, "dropGarbage": m.dropGarbage, "restart": func(*rapid.T) { m.restart() },
	}
}

// do runs a command on the directory and its twin.
func (m *model) do(cmd Command) ([]byte, error) {
	result, err := m.run(cmd)
	kind, body, encErr := Encode(cmd)
	if encErr != nil {
		return nil, err
	}
	again, twinErr := m.twin.Apply(m.index, kind, body)
	if !bytes.Equal(result, again) || fmt.Sprint(err) != fmt.Sprint(twinErr) {
		m.rt.Fatalf("%s: %s, %v here and %s, %v at the twin", kind, result, err, again, twinErr)
	}
	if m.also != nil {
		m.also(cmd, result, err)
	}
	return result, err
}

func (m *model) mustDo(cmd Command) []byte {
	result, err := m.do(cmd)
	if err != nil {
		m.rt.Fatalf("%T %+v: %v", cmd, cmd, err)
	}
	return result
}

func (m *model) name(label string) string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(m.rt, label)
}

// pick draws a working VDI or a snapshot; the step is skipped if there is none.
func (m *model) pick(snapshots bool) Entry {
	entries := slices.DeleteFunc(m.d.List(), func(e Entry) bool { return (e.SnapID > 0) != snapshots })
	if len(entries) == 0 {
		m.rt.Skip("nothing to pick")
	}
	return rapid.SampledFrom(entries).Draw(m.rt, "entry")
}

func (m *model) create(*rapid.T) {
	name := m.name("name")
	_, lookup := m.d.Lookup(name)
	result, err := m.do(&Create{Name: name, Size: 1 << 30, Policy: sheepdog.Policy{Copies: 3}, BlockSizeShift: 22})
	if (err == nil) != (lookup != nil) {
		m.rt.Fatalf("create %s: %v, lookup before: %v", name, err, lookup)
	}
	if err == nil {
		m.want[decode[Created](m.rt, result).VID] = map[int]int{}
	}
}

func (m *model) writeBlock(*rapid.T) {
	e := m.pick(false)
	block, value := rapid.IntRange(0, 5).Draw(m.rt, "block"), rapid.IntRange(0, 1000).Draw(m.rt, "value")
	m.put(e, block, value)
}

// put writes a block under a coordinator.
func (m *model) put(e Entry, block, value int) {
	f, _ := m.d.Family(e.Family)
	if f.Coordinator.IsZero() {
		got := decode[Acquired](m.rt, m.mustDo(&Acquire{Family: f.ID, Node: 1, Incarnation: 1, IfToken: f.Token}))
		f.Token = got.Token
	}
	if l, _ := m.d.Layer(e.Layer); !l.Written {
		m.mustDo(&MarkWritten{Layer: e.Layer, Token: f.Token})
	}
	for _, d := range m.disks {
		if d[e.Layer] == nil {
			d[e.Layer] = map[int]int{}
		}
		d[e.Layer][block] = value
	}
	m.want[e.VID][block] = value
}

func (m *model) snapshot(*rapid.T) {
	e := m.pick(false)
	if e.Moving {
		if _, err := m.do(&Snapshot{VID: e.VID, IfToken: m.tokenOf(e.Name, 0)}); err == nil {
			m.rt.Fatal("snapshot of a VDI that is being moved")
		}
		return
	}
	f, _ := m.d.Family(e.Family)
	r := decode[Snapped](m.rt, m.mustDo(&Snapshot{VID: e.VID, IfFamily: f.ID, IfToken: f.Token}))
	if r.VID != e.VID {
		m.rt.Fatalf("snapshot of %s has id %s", e.VID, r.VID)
	}
	m.want[r.NewVID] = maps.Clone(m.want[e.VID])
}

func (m *model) clone(*rapid.T) {
	e, name := m.pick(true), m.name("clone")
	result, err := m.do(&Clone{Source: e.Name, Snapshot: fmt.Sprint(e.SnapID), Name: name})
	if err == nil {
		m.want[decode[Created](m.rt, result).VID] = maps.Clone(m.want[e.VID])
	}
}

func (m *model) deleteVDI(*rapid.T) {
	e := m.pick(false)
	m.mustDo(&Delete{Name: e.Name, RecycleVIDs: m.recycle})
	delete(m.want, e.VID)
}

func (m *model) deleteSnapshot(*rapid.T) {
	e := m.pick(true)
	m.mustDo(&DeleteSnapshot{Name: e.Name, Snapshot: fmt.Sprint(e.SnapID), RecycleVIDs: m.recycle})
	delete(m.want, e.VID)
}

func (m *model) rollback(*rapid.T) {
	e := m.pick(true)
	cmd := &Rollback{Name: e.Name, Snapshot: fmt.Sprint(e.SnapID), RecycleVIDs: m.recycle}
	old, err := m.d.Lookup(e.Name)
	if err == nil {
		cmd.IfToken = m.tokenOf(e.Name, 0)
	}
	r := decode[RolledBack](m.rt, m.mustDo(cmd))
	if err == nil {
		delete(m.want, old.VID)
	}
	m.want[r.VID] = maps.Clone(m.want[e.VID])
}

// group snapshots several VDIs at once, or none if one of them cannot be.
func (m *model) group(*rapid.T) {
	cmd, fails := &SnapshotGroup{}, false
	for _, e := range m.d.List() {
		if e.SnapID == 0 && rapid.Bool().Draw(m.rt, "member") {
			cmd.Members = append(cmd.Members, Snapshot{Name: e.Name, IfToken: m.tokenOf(e.Name, 0)})
			fails = fails || e.Moving
		}
	}
	if len(cmd.Members) == 0 {
		m.rt.Skip("nothing to snapshot")
	}
	result, err := m.do(cmd)
	if (err != nil) != fails {
		m.rt.Fatalf("group: %v", err)
	}
	if err != nil {
		return
	}
	for _, r := range decode[SnappedGroup](m.rt, result).Snapped {
		m.want[r.NewVID] = maps.Clone(m.want[r.VID])
	}
}

// alter changes the redundancy of a VDI that stands alone.
func (m *model) alter(*rapid.T) {
	e := m.pick(false)
	l, _ := m.d.Layer(e.Layer)
	policy := sheepdog.Policy{Copies: uint8(rapid.IntRange(1, 3).Draw(m.rt, "copies"))}
	_, err := m.do(&AlterPolicy{Name: e.Name, Policy: policy, IfToken: m.tokenOf(e.Name, 0)})
	alone := l.Parent == 0 && l.Base == 0
	if e.Policy.Parity > 0 {
		alone = !e.Moving && !e.IsClone && len(m.d.ListName(e.Name)) == 1
		for id := l.Parent + l.Base; id != 0 && alone; {
			below, _ := m.d.Layer(id)
			alone = below.Strips > 0 || below.Family == l.Family
			id = below.Parent + below.Base
		}
	}
	if alone = alone && policy != e.Policy; (err == nil) != alone {
		m.rt.Fatalf("alter %s, alone: %t: %v", e.Name, alone, err)
	}
}

// flattenVDI copies what a VDI reads into its working layer, then lets go of its
// base.
func (m *model) flattenVDI(*rapid.T) {
	e := m.pick(false)
	l, _ := m.d.Layer(e.Layer)
	if l.Parent != 0 || l.Base == 0 {
		m.rt.Skip("nothing to flatten")
	}
	for block := range 6 {
		if value := m.want[e.VID][block]; value != 0 {
			m.put(e, block, value)
		}
	}
	m.mustDo(m.flatten(e.Name))
}

func (m *model) toTrash(*rapid.T) {
	e := m.pick(false)
	m.mustDo(&SetTrash{KeepSeconds: 3600})
	m.mustDo(&Delete{Name: e.Name, RecycleVIDs: m.recycle, IfToken: m.tokenOf(e.Name, 0)})
	m.mustDo(&SetTrash{})
	m.trash[e.VID] = m.want[e.VID]
	delete(m.want, e.VID)
}

func (m *model) pickTrash() Trashed {
	list := m.d.Trash()
	if len(list) == 0 {
		m.rt.Skip("the trash is empty")
	}
	return rapid.SampledFrom(list).Draw(m.rt, "trashed")
}

func (m *model) untrash(*rapid.T) {
	t, name := m.pickTrash(), m.name("back")
	_, lookup := m.d.Lookup(name)
	_, err := m.do(&Untrash{VID: t.VID, Name: name})
	if (err == nil) != (lookup != nil) {
		m.rt.Fatalf("untrash %s: %v, lookup before: %v", name, err, lookup)
	}
	if err == nil {
		m.want[t.VID] = m.trash[t.VID]
		delete(m.trash, t.VID)
	}
}

func (m *model) purge(*rapid.T) {
	t := m.pickTrash()
	m.mustDo(&Purge{VID: t.VID, RecycleVIDs: m.recycle})
	delete(m.trash, t.VID)
}

func (m *model) rename(*rapid.T) {
	from, to := m.name("from"), m.name("to")
	m.do(&Rename{Name: from, NewName: to})
}

// recode begins to encode some layer, freezing it if need be. Until it is
// finished its strips, here one copy on each disk, may hold anything.
func (m *model) recode(*rapid.T) {
	var able []*Recode
	for _, l := range m.layers() {
		f, _ := m.d.Family(l.Family)
		cmd := &Recode{Layer: l.ID, Policy: sheepdog.Policy{Copies: 4, Parity: 2}, Encoder: Coordinator{Node: 1, Incarnation: 1},
			Freeze: !l.Frozen, IfToken: f.Token}
		if cmd.check(m.d.state.Load(), m.d.state.Load().layers.get(l.ID)) == nil {
			able = append(able, cmd)
		}
	}
	if len(able) == 0 {
		m.rt.Skip("nothing to encode")
	}
	r := decode[Recoding](m.rt, m.mustDo(rapid.SampledFrom(able).Draw(m.rt, "recode")))
	m.jobs[r.Coded] = r
	for i, d := range m.disks {
		content := map[int]int{}
		for _, layer := range append([]sheepdog.LayerID{r.Layer}, r.Merged...) {
			chain, _ := m.d.Chain(layer)
			for _, id := range chain {
				for block, value := range d[id] {
					if _, above := content[block]; !above {
						content[block] = value
					}
				}
			}
		}
		m.disks[i][r.Coded] = content
	}
}

// job draws an encoding that has not been given up.
func (m *model) job() Recoding {
	var jobs []Recoding
	for _, l := range m.layers() {
		if l.Recoding != 0 {
			jobs = append(jobs, m.jobs[l.Recoding])
		}
	}
	if len(jobs) == 0 {
		m.rt.Skip("nothing is being encoded")
	}
	return rapid.SampledFrom(jobs).Draw(m.rt, "job")
}

func (m *model) recoded(*rapid.T) {
	r := m.job()
	m.mustDo(&Recoded{Layer: r.Layer, Coded: r.Coded, Objects: 1})
}

func (m *model) giveUp(*rapid.T) {
	r := m.job()
	m.mustDo(&GiveUp{Layer: r.Layer, Coded: r.Coded})
	if m.d.Listed(r.Coded) || !m.d.Dropped(r.Coded+5) {
		m.rt.Fatalf("coded layer %d is listed after it was given up", r.Coded)
	}
	if _, err := m.do(&Recoded{Layer: r.Layer, Coded: r.Coded, Objects: 1}); err == nil {
		m.rt.Fatalf("coded layer %d was given up, and finished", r.Coded)
	}
}

func (m *model) retire(*rapid.T) {
	var able []sheepdog.LayerID
	for _, l := range m.layers() {
		if l.Retiring {
			able = append(able, l.ID)
		}
	}
	if len(able) == 0 {
		m.rt.Skip("nothing to retire")
	}
	m.mustDo(&Retire{Layer: rapid.SampledFrom(able).Draw(m.rt, "retire")})
}

func (m *model) code(*rapid.T) {
	e := m.pick(true)
	m.mustDo(&Code{Name: e.Name, Snapshot: fmt.Sprint(e.SnapID), Policy: sheepdog.Policy{Copies: 2, Parity: 1}})
}

// mergeLocally moves the blocks of the newest absorbed layer that a disk still
// has into the layer that absorbed it.
func (m *model) mergeLocally(*rapid.T) {
	d := rapid.SampledFrom(m.disks[:]).Draw(m.rt, "disk")
	absorbing := m.d.Absorbing()
	if len(absorbing) == 0 {
		m.rt.Skip("nothing to merge")
	}
	into := rapid.SampledFrom(absorbing).Draw(m.rt, "layer")
	for _, from := range into.Absorbed {
		if d[from] == nil {
			continue
		}
		if d[into.ID] == nil {
			d[into.ID] = map[int]int{}
		}
		for block, value := range d[from] {
			if _, has := d[into.ID][block]; !has {
				d[into.ID][block] = value
			}
		}
		delete(d, from)
		return
	}
}

// prune forgets what no disk has any more.
func (m *model) prune(*rapid.T) {
	cmd := &Prune{Layers: map[sheepdog.LayerID][]sheepdog.LayerID{}}
	for _, l := range m.d.Absorbing() {
		for _, id := range l.Absorbed {
			if m.disks[0][id] == nil && m.disks[1][id] == nil && rapid.Bool().Draw(m.rt, "prune") {
				cmd.Layers[l.ID] = append(cmd.Layers[l.ID], id)
			}
		}
	}
	m.mustDo(cmd)
	for layer, ids := range cmd.Layers {
		for _, id := range ids {
			if m.d.Listed(id) || !m.d.Dropped(id) {
				m.rt.Fatalf("layer %d of %d is listed after a prune", id, layer)
			}
		}
	}
}

func (m *model) dropGarbage(*rapid.T) {
	d := rapid.SampledFrom(m.disks[:]).Draw(m.rt, "disk")
	maps.DeleteFunc(d, func(id sheepdog.LayerID, _ map[int]int) bool { return m.d.Dropped(id) })
}

// read resolves a block as gateways and replicas do: the chain, then the base.
func (m *model) read(d disk, layer sheepdog.LayerID, block int) int {
	for layer != 0 {
		chain, ok := m.d.Chain(layer)
		if !ok {
			m.rt.Fatalf("no chain for layer %d", layer)
		}
		for _, id := range chain {
			if value, has := d[id][block]; has {
				return value
			}
		}
		layer, _, _ = m.d.BaseOf(layer)
	}
	return 0
}

func (m *model) compare() {
	m.check()
	entries := m.d.List()
	if len(m.d.Trash()) != len(m.trash) {
		m.rt.Fatalf("%d VDIs in the trash, want %d", len(m.d.Trash()), len(m.trash))
	}
	if len(entries) != len(m.want) {
		m.rt.Fatalf("%d VDIs and snapshots listed, want %d", len(entries), len(m.want))
	}
	for _, e := range entries {
		for block := range 6 {
			for i, d := range m.disks {
				if got, want := m.read(d, e.Layer, block), m.want[e.VID][block]; got != want {
					m.rt.Fatalf("block %d of %s@%d at node %d is %d, want %d", block, e.Name, e.SnapID, i, got, want)
				}
			}
		}
	}
	img, err := m.twin.Snapshot()
	if err != nil || !bytes.Equal(img, m.image()) {
		m.rt.Fatalf("the twin differs (%v):\n%s\n%s", err, m.image(), img)
	}
}
