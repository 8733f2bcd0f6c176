package backup

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// storeVersion is of manifests and sets. An unknown one is refused.
const storeVersion = 1

var errVersion = errors.New("unknown version")

// maxManifest bounds a manifest in bytes: about a million chunks.
const maxManifest = 256 << 20

// Sum is the SHA-256 of a chunk.
type Sum [sha256.Size]byte

// MarshalText writes hex digits.
func (s Sum) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(s[:])), nil }

// UnmarshalText reads 64 hex digits.
func (s *Sum) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(s) {
		return fmt.Errorf("checksum %q: want %d hex digits", b, 2*len(s))
	}
	_, err := hex.Decode(s[:], b)
	return err
}

// Chunk is a run of bytes of a VDI; what no chunk has reads as zeros.
type Chunk struct {
	Offset uint64 `json:"o"` // a multiple of Piece, or of the object size if that is less
	Length uint32 `json:"n"`
	Sum    Sum    `json:"s"`
}

// Manifest is one snapshot as a Store keeps it. It is complete in itself:
// deleting another one does not damage it.
type Manifest struct {
	Version        int       `json:"version"`
	Cluster        string    `json:"cluster"` // id of the cluster that it is of
	Name           string    `json:"name"`
	VID            string    `json:"vid"`
	SnapshotID     uint32    `json:"snapshotID"`
	Tag            string    `json:"tag,omitempty"`
	Description    string    `json:"description,omitempty"`
	Created        time.Time `json:"created"` // of the snapshot
	SizeBytes      uint64    `json:"sizeBytes"`
	BlockSizeShift uint8     `json:"blockSizeShift"`
	Copies         string    `json:"copies"`
	Chunks         []Chunk   `json:"chunks"` // ascending
	Check          string    `json:"check"`  // SHA-256 of all before, with this empty

	id string // empty: neither saved nor loaded
}

// ID names the manifest in its store, which chooses it when the manifest is saved.
func (m *Manifest) ID() string {
	if m.id == "" {
		return m.ids()[0]
	}
	return m.id
}

// ids are those that a store may give the manifest. The first was perhaps given to
// a snapshot that is gone: clusters can be told to use the ids of deleted VDIs again.
func (m *Manifest) ids() []string {
	id := fmt.Sprintf("%.8s-%s-%d", m.Cluster, m.VID, m.SnapshotID)
	return []string{id, id + "-" + m.Created.UTC().Format("20060102T150405.000000000Z")}
}

func (m *Manifest) check() (string, error) {
	plain := *m
	plain.Check = ""
	b, err := json.Marshal(&plain)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), err
}

// Store is a directory of backups, or a bucket of S3 (s3://BUCKET[/PREFIX]):
//
//	chunks/ab/<sha256>    bytes, by their sum; written once, and again only if they are damaged
//	backups/<id>.json     manifests
//	sets/<number>.json    what `dog cluster snapshot` saved at a time
//
// Files appear whole, so that what was broken off can go on.
type Store struct {
	space space
	dir   string // where; for messages and tests
}

// Open opens a store, making its directory if need be. The credentials of a
// bucket come from getenv.
func Open(address string, getenv func(string) string) (*Store, error) {
	if strings.HasPrefix(address, s3Scheme) {
		b, err := openBucket(address, getenv)
		if err != nil {
			return nil, err
		}
		return &Store{space: b, dir: b.String()}, nil
	}
	for _, sub := range []string{"chunks", "backups", "sets"} {
		if err := os.MkdirAll(filepath.Join(address, sub), 0o750); err != nil {
			return nil, fmt.Errorf("backup directory: %w", err)
		}
	}
	return &Store{space: directory(address), dir: address}, nil
}

// Existing opens what must be a store already.
func Existing(address string, getenv func(string) string) (*Store, error) {
	if strings.HasPrefix(address, s3Scheme) {
		s, err := Open(address, getenv)
		if err != nil {
			return nil, err
		}
		names, err := s.space.list("backups")
		if err == nil && len(names) == 0 {
			err = fmt.Errorf("%s has no backups", s.dir)
		}
		return s, err
	}
	if info, err := os.Stat(filepath.Join(address, "backups")); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s is no backup directory", address)
	}
	return &Store{space: directory(address), dir: address}, nil
}

func chunkName(sum Sum) string {
	name := hex.EncodeToString(sum[:])
	return "chunks/" + name[:2] + "/" + name
}

// Put keeps a chunk and says whether it was new.
func (s *Store) Put(data []byte) (sum Sum, added bool, err error) {
	sum = sha256.Sum256(data)
	name := chunkName(sum)
	size, err := s.space.stat(name)
	switch {
	case err == nil && size == int64(len(data)):
		return sum, false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return sum, false, err
	}
	return sum, true, s.space.write(name, data)
}

// Get reads a chunk and checks it.
func (s *Store) Get(c Chunk) ([]byte, error) {
	data, err := s.space.read(chunkName(c.Sum), Piece)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, corrupted("chunk %x is missing", c.Sum)
	case err != nil:
		return nil, err
	case len(data) != int(c.Length) || sha256.Sum256(data) != c.Sum:
		return nil, corrupted("chunk %x is not what was written", c.Sum)
	}
	return data, nil
}

// Save keeps a manifest; its chunks must be there. It takes the place of an older one
// of the same snapshot, and of one that is damaged.
func (s *Store) Save(m *Manifest) error {
	m.Version, m.id = storeVersion, m.ids()[0]
	was, err := s.Load(m.id)
	switch {
	case err == nil && !was.Created.Equal(m.Created):
		m.id = m.ids()[1]
	case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupted):
		return err
	}
	if m.Check, err = m.check(); err != nil {
		return err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.space.write("backups/"+m.ID()+".json", b)
}

// Load reads a manifest and checks it, not its chunks.
func (s *Store) Load(id string) (*Manifest, error) {
	if strings.ContainsAny(id, `/\`) {
		return nil, corrupted("%q is no name of a backup", id)
	}
	b, err := s.space.read("backups/"+id+".json", maxManifest)
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, corrupted("manifest %s: %v", id, err)
	}
	if m.Version != storeVersion {
		return nil, fmt.Errorf("backup %s: %w: it has %d, this program reads %d", id, errVersion, m.Version, storeVersion)
	}
	again, err := json.Marshal(m)
	if sum, serr := m.check(); err != nil || serr != nil || sum != m.Check || !slices.Contains(m.ids(), id) || !bytes.Equal(again, b) {
		return nil, corrupted("manifest %s is not what was written", id)
	}
	m.id = id
	return m, m.sound()
}

// sound refuses chunks that do not lie in the VDI, in order.
func (m *Manifest) sound() error {
	end := uint64(0)
	for _, c := range m.Chunks {
		if c.Offset < end || c.Length == 0 || c.Length > Piece || c.Offset > m.SizeBytes || uint64(c.Length) > m.SizeBytes-c.Offset {
			return corrupted("manifest %s has a chunk of %d bytes at %d", m.ID(), c.Length, c.Offset)
		}
		end = c.Offset + uint64(c.Length)
	}
	return nil
}

// List loads all manifests, by name and by when their snapshots were taken. Those
// that are damaged, or of another version, are left out and told in bad: the others
// are none the worse for them.
func (s *Store) List() (out []*Manifest, bad, err error) {
	names, err := s.space.list("backups")
	if err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		id, ok := strings.CutSuffix(path.Base(n), ".json")
		if !ok {
			continue
		}
		m, err := s.Load(id)
		switch {
		case err == nil:
			out = append(out, m)
		case errors.Is(err, ErrCorrupted) || errors.Is(err, errVersion):
			bad = errors.Join(bad, err)
		default:
			return nil, nil, err
		}
	}
	slices.SortFunc(out, func(a, b *Manifest) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), a.Created.Compare(b.Created), cmp.Compare(a.SnapshotID, b.SnapshotID))
	})
	return out, bad, nil
}

// Verify reads every chunk of a manifest.
func (s *Store) Verify(m *Manifest) error {
	for _, c := range m.Chunks {
		if _, err := s.Get(c); err != nil {
			return fmt.Errorf("backup %s of %s at %d: %w", m.ID(), m.Name, c.Offset, err)
		}
	}
	return nil
}

// Inspection reads chunks that several manifests may share, each once.
type Inspection struct {
	store *Store
	known map[Sum]error // what is wrong with it; nil: nothing
}

// Inspect begins one.
func (s *Store) Inspect() *Inspection { return &Inspection{s, make(map[Sum]error)} }

// Look says what is wrong with a chunk, which is ErrCorrupted. err is of a store that
// cannot be read.
func (i *Inspection) Look(c Chunk) (fault, err error) {
	if fault, known := i.known[c.Sum]; known {
		return fault, nil
	}
	if _, fault = i.store.Get(c); fault != nil && !errors.Is(fault, ErrCorrupted) {
		return nil, fault
	}
	i.known[c.Sum] = fault
	return fault, nil
}

// Mended notes that a chunk was replaced.
func (i *Inspection) Mended(c Chunk) { i.known[c.Sum] = nil }

// Replace writes a chunk, whatever is in its place.
func (s *Store) Replace(c Chunk, data []byte) error {
	if len(data) != int(c.Length) || sha256.Sum256(data) != c.Sum {
		return fmt.Errorf("chunk %x would be replaced by other bytes", c.Sum)
	}
	return s.space.write(chunkName(c.Sum), data)
}
