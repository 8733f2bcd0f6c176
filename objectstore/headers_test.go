package objectstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sheepdog"
)

// headerRig is a table of headers over files that can lose power, and a model of it.
type headerRig struct {
	t     *testing.T
	rng   *rand.Rand
	files *simFiles
	below *fakeMeta
	late  bool // what the store below commits next is there, though it says that it failed
	h     *headers
	model map[string][]byte
}

func newHeaderRig(t *testing.T, seed uint64) *headerRig {
	g := &headerRig{t: t, rng: rand.New(rand.NewPCG(seed, 15)), files: newSimFiles(), below: newFakeMeta(), model: make(map[string][]byte)}
	checkBoth(t, g.open(), nil)
	return g
}

func (g *headerRig) open() (err error) {
	g.h, err = openHeaders(lateMeta{g.below, &g.late}, headerLogOptions{fs: g.files, dir: "/meta", store: 7, slack: 16 * blockSize})
	return err
}

// lateMeta is a metadata store that fails when a commit is done.
type lateMeta struct {
	metadata
	late *bool
}

func (m lateMeta) Commit(changes []change) error {
	if err := m.metadata.Commit(changes); err != nil || !*m.late {
		return err
	}
	return errDead
}

// changes is a commit: headers, and an entry for the store below.
func (g *headerRig) changes() []change {
	out := []change{{[]byte("x"), []byte(fmt.Sprint(g.rng.Uint64()))}}
	for range 1 + g.rng.IntN(9) {
		k := objectKey{sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(g.rng.IntN(60))}, sheepdog.LayerID(1 + g.rng.IntN(3))}
		c := change{key: k.encode(keyObject)}
		if g.rng.IntN(4) > 0 {
			c.value = bytes.Repeat([]byte{byte(g.rng.Uint32())}, 1+g.rng.IntN(300))
		}
		out = append(out, c)
	}
	return out
}

func apply(model map[string][]byte, changes []change) map[string][]byte {
	out := maps.Clone(model)
	for _, c := range changes {
		if out[string(c.key)] = c.value; c.value == nil {
			delete(out, string(c.key))
		}
	}
	return out
}

// matches compares all that is there with a model, by keys and from keys on.
func (g *headerRig) matches(model map[string][]byte) error {
	var want []string
	live := int64(0)
	for k, v := range model {
		got, err := g.h.Get([]byte(k))
		if err != nil || !bytes.Equal(got, v) {
			return fmt.Errorf("entry %x: %x, %v", k, got, err)
		}
		if k[0] == keyObject {
			want = append(want, k)
			live += int64(headerEntryLen + len(v))
		}
	}
	if n := g.h.live.Load(); n != live {
		return fmt.Errorf("headers are said to take %d bytes, they take %d", n, live)
	}
	slices.Sort(want)
	from := ""
	if len(want) > 0 {
		from = want[g.rng.IntN(len(want))]
	}
	for _, s := range []scan{{prefix: []byte{keyObject}}, {prefix: []byte{keyObject}, from: []byte(from)}, {prefix: []byte(from)[:min(len(from), pileKeyLen)]}, {prefix: []byte(from)}} {
		if len(s.prefix) == 0 {
			continue
		}
		var got, fit []string
		for _, k := range want {
			if k >= string(s.from) && bytes.HasPrefix([]byte(k), s.prefix) {
				fit = append(fit, k)
			}
		}
		err := g.h.Scan(s, func(key, value []byte) (bool, error) {
			got = append(got, string(key))
			return true, nil
		})
		if err != nil || !slices.Equal(got, fit) {
			return fmt.Errorf("scan %x from %x: %d keys, %v; want %d", s.prefix, s.from, len(got), err, len(fit))
		}
	}
	for k := range model {
		if k[0] != keyObject {
			continue
		}
		if key, err := decodeObjectKey([]byte(k)); err != nil || !g.h.inventory.has(key) {
			return fmt.Errorf("object %x is not in the list of its layer", k)
		}
	}
	return nil
}

// Headers are those of the model, through sweeps, crashes and losses of power, wherever
// the file system or the store below fail: a commit is there or not, and once it has
// returned it is.
func TestHeadersAreThoseOfTheModel(t *testing.T) {
	swept, failed := 0, 0
	for seed := range uint64(120) {
		g := newHeaderRig(t, seed)
		for range 60 {
			after, countdown := g.changes(), 1+g.rng.IntN(40)
			broken := g.rng.IntN(4) == 0
			fail := func() error {
				if countdown--; broken && countdown <= 0 {
					return errDead
				}
				return nil
			}
			g.files.fault = func(string, string) error { return fail() }
			g.below.fault, g.late = fail, g.rng.IntN(20) == 0
			err := g.h.Commit(after)
			g.files.fault, g.below.fault, g.late = nil, nil, false
			before := g.model
			if err == nil {
				g.model = apply(g.model, after)
				if g.rng.IntN(8) > 0 {
					if err := g.matches(g.model); err != nil {
						t.Fatalf("seed %d: %v", seed, err)
					}
					continue
				}
			} else if failed++; !errors.Is(g.h.Commit(after), errDead) {
				t.Fatalf("seed %d: a log that failed is written on", seed)
			}
			g.files.losePower(g.rng)
			if err := g.open(); err != nil {
				t.Fatalf("seed %d: after a loss of power: %v", seed, err)
			}
			if err != nil && g.matches(before) != nil {
				g.model = apply(before, after)
			}
			if err := g.matches(g.model); err != nil {
				t.Fatalf("seed %d: after a loss of power: %v", seed, err)
			}
		}
		swept += int(g.h.log.files[0].no)
		if err := g.h.Verify(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
	if swept < 300 || failed < 150 {
		t.Errorf("%d sweeps were complete and %d commits failed: the test does not test", swept, failed)
	}
}

// The log stays in proportion to what there is, and its files go.
func TestHeaderLogIsBounded(t *testing.T) {
	g := newHeaderRig(t, 1)
	for range 3000 {
		checkBoth(t, g.h.Commit(g.changes()), nil)
		// Twice, and as much again while it is swept; a record is at least a block.
		if n, most := g.h.log.size(), 5*g.h.live.Load()+3*g.h.log.slack; n > most {
			t.Fatalf("the log of %d bytes of headers has %d, want at most %d", g.h.live.Load(), n, most)
		}
	}
	there, err := g.h.log.list()
	if err != nil || len(there) > 2 || g.h.log.files[0].no < 20 {
		t.Errorf("files %v are there after %d sweeps, %v", there, g.h.log.files[0].no, err)
	}
	if n := g.h.Size(); n != uint64(g.h.log.size()) {
		t.Errorf("the store is said to have %d bytes, want %d", n, g.h.log.size())
	}
}

// A log that is damaged, cut or lost in part is refused, and found by Verify: not one of its headers
// would be missed by anybody.
func TestDamagedHeaderLogIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(f *simFile)
		want   error
	}{
		"a flipped bit":      {func(f *simFile) { f.blocks[1] = flipped(f.blocks[1], 100) }, errBadCRC},
		"in its length":      {func(f *simFile) { f.blocks[1] = flipped(f.blocks[1], 0) }, errBadCRC},
		"in its first block": {func(f *simFile) { f.blocks[0] = flipped(f.blocks[0], 9) }, errBadCRC},
		"cut":                {func(f *simFile) { delete(f.blocks, f.size/blockSize-1); clear(f.blocks[1]) }, errBadCRC},
		"lost":               {func(f *simFile) { delete(f.fs.files, f.name) }, errEmptied},
	} {
		t.Run(name, func(t *testing.T) {
			g := newHeaderRig(t, 2)
			checkBoth(t, g.h.Commit(g.changes()), nil)
			checkBoth(t, g.h.Verify(), nil)
			f := g.files.files[g.h.log.name(g.h.log.last().no)]
			c.damage(f)
			if err := g.h.Verify(); name != "lost" && name != "in its first block" && !errors.Is(err, c.want) {
				t.Errorf("Verify: %v, want %v", err, c.want)
			}
			if err := g.open(); !errors.Is(err, c.want) {
				t.Errorf("open: %v, want %v", err, c.want)
			}
		})
	}
}

func flipped(b []byte, at int) []byte {
	out := slices.Clone(b)
	out[at] ^= 4
	return out
}

// A record that a commit left which was not decided is not there, also when the log goes on in
// another file behind it.
func TestUndecidedHeadersAreGone(t *testing.T) {
	g := newHeaderRig(t, 3)
	checkBoth(t, g.h.Commit(g.changes()), nil)
	model := make(map[string][]byte)
	checkBoth(t, g.h.Scan(scan{prefix: []byte{keyObject}}, func(key, value []byte) (bool, error) {
		model[string(key)] = bytes.Clone(value)
		return true, nil
	}), nil)
	g.below.fault = func() error { return errDead }
	if err := g.h.Commit(g.changes()); !errors.Is(err, errDead) {
		t.Fatal(err)
	}
	g.below.fault = nil
	checkBoth(t, g.open(), nil)
	g.h.log.slack = -1 << 40 // the next commit begins another file
	more := g.changes()
	checkBoth(t, g.h.Commit(more), nil)
	if len(g.h.log.files) != 2 && g.h.log.files[0].no == 1 {
		t.Fatalf("the log is in %d files from %d on", len(g.h.log.files), g.h.log.files[0].no)
	}
	checkBoth(t, g.open(), nil)
	model = apply(model, more)
	delete(model, "x")
	checkBoth(t, g.matches(model), nil)
}

// On a full file system nothing is committed that was not admitted, the log is not broken,
// and what was asked for is committed once there is space.
func TestHeaderLogOnAFullFileSystem(t *testing.T) {
	g := newHeaderRig(t, 4)
	full := false
	commit := func() error {
		round := make([][]change, 1+g.rng.IntN(12))
		count, size := 0, 0
		for i := range round {
			round[i] = g.changes()
			for j := range round[i][1:] {
				round[i][1+j].value = bytes.Repeat([]byte{1}, 1+g.rng.IntN(20_000))
			}
			count, size = count+len(round[i]), size+sizeOf(round[i])
		}
		if g.files.limit = g.files.allocated(); !full {
			g.files.limit = 1 << 40
		}
		if err := g.h.Room(count, size); err != nil {
			return err
		}
		taken := full || g.rng.IntN(3) == 0
		for _, c := range round {
			if taken { // what is free somebody else takes
				g.files.limit = g.files.allocated()
			}
			if err := g.h.Commit(c); err != nil {
				t.Fatalf("a commit that was admitted: %v", err)
			}
			g.model = apply(g.model, c)
		}
		return nil
	}
	for range 50 {
		checkBoth(t, commit(), nil)
	}
	for range 3 {
		full = true
		n, err := 0, error(nil)
		for ; err == nil && n < 10_000; n++ {
			err = commit()
		}
		if !errors.Is(err, sheepdog.ErrNoSpace) {
			t.Fatalf("on a full file system, after %d commits: %v", n, err)
		}
		checkBoth(t, g.open(), nil)
		checkBoth(t, g.matches(g.model), nil)
		full = false
		for range 100 { // it is swept again
			checkBoth(t, commit(), nil)
		}
	}
	if n, most := g.h.log.size(), 5*g.h.live.Load()+3*g.h.log.slack; n > most {
		t.Errorf("the log of %d bytes of headers has %d, want at most %d", g.h.live.Load(), n, most)
	}
	checkBoth(t, g.matches(g.model), nil)
}

// An error of the disk is one, not a lack of space, and ends the log.
func TestHeaderLogOnABrokenDisk(t *testing.T) {
	for _, op := range []string{"write", "sync", "syncdir", "open"} {
		g := newHeaderRig(t, 5)
		g.files.fault = func(what, name string) error {
			if what == op {
				return unix.EIO
			}
			return nil
		}
		if err := g.h.Commit(g.changes()); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", op, err)
		}
		g.files.fault = nil
		if err := g.h.Commit(g.changes()); !errors.Is(err, unix.EIO) {
			t.Errorf("after %s failed: %v", op, err)
		}
	}
}

// A store of the release before, which has headers in the metadata store, is taken over,
// wherever that is cut short; and releases before refuse it then.
func TestHeadersOfTheReleaseBeforeAreTakenOver(t *testing.T) {
	for cut := 1; ; cut++ {
		p := newHeadPair(t, 1)
		for range 300 {
			p.step()
		}
		checkBoth(t, p.d.Close(), nil)
		if n := asBefore(t, p.d, p.meta, 3); n < 5 {
			t.Fatalf("only %d objects are there", n)
		}
		left := cut
		p.meta.fault = func() error {
			if left--; left == 0 {
				return errDead
			}
			return nil
		}
		d, err := Open(Options{Meta: p.d.opts.Meta, MapCacheBytes: 1 << 20, openMeta: p.meta.open, Logger: quiet()})
		whole := err == nil
		if whole {
			checkBoth(t, d.Close(), nil)
		} else if !errors.Is(err, errDead) {
			t.Fatal(err)
		}
		p.meta.fault = nil
		p.open()
		for range 50 {
			p.read()
		}
		p.check("taken over", func(objectKey) bool { return false })
		for key := range p.meta.values {
			if key[0] == keyObject || key[0] == keyLayer {
				t.Fatalf("entry %x is left", key)
			}
		}
		if files, _ := filepath.Glob(filepath.Join(p.d.opts.Meta, headerFilePrefix+"*")); len(files) != 1 {
			t.Errorf("files %v are there", files)
		}
		if p.meta.values[string(checkpoint{}.change().key)][0] != checkpointVersion {
			t.Error("a release before would not refuse the store")
		}
		if whole {
			return
		}
	}
}

// A pile that is not in memory shows what it shows in memory, whatever the chain and the range.
func TestHeadersShowTheSame(t *testing.T) {
	p := newHeadPair(t, 6)
	known := 0
	for range 150 {
		for range 20 {
			p.step()
		}
		p.destage()
		for range 20 {
			obj, start, n := p.object(), sheepdog.BlockNo(p.rng.IntN(300)), 1+p.rng.IntN(100)
			chain := []sheepdog.LayerID{p.layer(), p.layer(), p.layer()}
			v := view{chain: chain}
			v.headers(p.d.headers.pile(obj))
			got, want := make([]slot, n), make([]slot, n)
			if !v.look(start, got) {
				continue
			}
			known++
			pile, err := p.d.load(obj)
			checkBoth(t, err, nil)
			pile.mu.Lock()
			ok := pile.unpackChain(chain, start, want)
			pile.mu.Unlock()
			p.d.cache.unpin(pile)
			if !ok || !slices.Equal(got, want) {
				t.Fatalf("object %s chain %v blocks from %d on: %v in headers, %v in memory", obj, chain, start, got, want)
			}
		}
	}
	if known < 500 {
		t.Errorf("only %d questions could be answered", known)
	}
}

// Whoever scans while headers come and go sees those that stay, each once and in order.
func TestHeadersAreScannedBesideCommits(t *testing.T) {
	g := newHeaderRig(t, 9)
	stay := make([]change, 0, 100)
	for i := range cap(stay) {
		k := objectKey{sheepdog.ObjectID{Family: 2, Index: sheepdog.Index(i)}, 1}
		stay = append(stay, change{k.encode(keyObject), []byte{1}})
	}
	checkBoth(t, commitAll(g.h, stay), nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 500 {
			if err := g.h.Commit(g.changes()); err != nil {
				t.Error(err)
			}
		}
	}()
	for busy := true; busy; {
		select {
		case <-done:
			busy = false
		default:
		}
		found, last := 0, []byte(nil)
		checkBoth(t, g.h.Scan(scan{prefix: []byte{keyObject}}, func(key, value []byte) (bool, error) {
			if bytes.Compare(last, key) >= 0 {
				t.Errorf("%x comes after %x", key, last)
			}
			last = bytes.Clone(key)
			if k, err := decodeObjectKey(key); err == nil && k.Object.Family == 2 {
				found++
			}
			return true, nil
		}), nil)
		if found != len(stay) {
			t.Fatalf("%d of %d headers that stay were found", found, len(stay))
		}
	}
}

// BenchmarkHeaders commits the headers of objects with one block each, 4096 at once, of as
// many as a disk of a TiB has.
func BenchmarkHeaders(b *testing.B) {
	h, err := openHeaders(newFakeMeta(), headerLogOptions{fs: hostFiles{}, dir: b.TempDir(), store: 7, noSync: true, slack: headerSlack})
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	changes := make([]headerChange, 4096)
	value := make([]byte, 60)
	b.ReportAllocs()
	for b.Loop() {
		for i := range changes {
			changes[i] = headerChange{objectKey{sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(1 << 18))}, 1}, value}
		}
		if err := h.commit(changes, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(changes)), "ns/header")
}
