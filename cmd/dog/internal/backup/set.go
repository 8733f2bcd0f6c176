package backup

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Set is what `dog cluster snapshot save` kept at a time: all snapshots of the
// cluster, or of some VDIs.
type Set struct {
	Version int       `json:"version"`
	Index   int       `json:"index"` // from 1
	Tag     string    `json:"tag"`
	Time    time.Time `json:"time"`
	Copies  string    `json:"copies"`  // default redundancy of the cluster
	Backups []string  `json:"backups"` // ids of manifests
}

// maxSet bounds a set in bytes.
const maxSet = 64 << 20

// SaveSet keeps a set under the next index; its tag must be new.
func (s *Store) SaveSet(set *Set) error {
	old, err := s.Sets()
	if err != nil {
		return err
	}
	set.Version, set.Index = storeVersion, 1
	for _, o := range old {
		if o.Tag == set.Tag {
			return fmt.Errorf("Snapshot tag has already been used for another snapshot, please, use another one: %s", set.Tag)
		}
		set.Index = max(set.Index, o.Index+1)
	}
	b, err := json.Marshal(set)
	if err != nil {
		return err
	}
	return s.space.write(fmt.Sprintf("sets/%d.json", set.Index), b)
}

// Sets lists the sets by index.
func (s *Store) Sets() ([]*Set, error) {
	names, err := s.space.list("sets")
	if err != nil {
		return nil, err
	}
	var out []*Set
	for _, n := range names {
		b, err := s.space.read(n, maxSet)
		if err != nil {
			return nil, err
		}
		set := &Set{}
		if err := json.Unmarshal(b, set); err != nil || set.Version != storeVersion || strconv.Itoa(set.Index)+".json" != path.Base(n) {
			return nil, corrupted("%s is no set of this version", n)
		}
		out = append(out, set)
	}
	slices.SortFunc(out, func(a, b *Set) int { return a.Index - b.Index })
	return out, nil
}

// Set finds a set by tag or index.
func (s *Store) Set(ref string) (*Set, error) {
	sets, err := s.Sets()
	if err != nil {
		return nil, err
	}
	for _, set := range sets {
		if set.Tag == ref || strconv.Itoa(set.Index) == strings.TrimSpace(ref) {
			return set, nil
		}
	}
	return nil, fmt.Errorf("there is no snapshot with tag or index %s", ref)
}
