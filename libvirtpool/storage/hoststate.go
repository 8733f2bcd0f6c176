package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// hostState is which pools are active on this host. It survives a restart of the
// process; on a file system that is empty after boot, as libvirt's own state, it
// does not survive a reboot, and autostart decides.
type hostState struct {
	path string // empty: kept in memory only
}

// stateDocument is the file.
type stateDocument struct {
	Version int          `json:"version"`
	Active  []Definition `json:"active"`
}

const stateVersion = 1

// load reads what was active. fresh: there was no file, as after a boot.
func (s hostState) load() (active map[string]Definition, fresh bool, err error) {
	active = map[string]Definition{}
	if s.path == "" {
		return active, true, nil
	}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return active, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the active pools: %w", err)
	}
	var doc stateDocument
	if err := json.Unmarshal(b, &doc); err != nil || doc.Version != stateVersion {
		return nil, false, fmt.Errorf("active pools in %s are not understood (version %d, %v): remove the file; pools then start by autostart or by hand", s.path, doc.Version, err)
	}
	for _, d := range doc.Active {
		active[d.Name] = d
	}
	return active, false, nil
}

// save replaces the file in one step.
func (s hostState) save(active map[string]Definition) error {
	if s.path == "" {
		return nil
	}
	doc := stateDocument{Version: stateVersion, Active: []Definition{}}
	for _, d := range active {
		doc.Active = append(doc.Active, d)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode the active pools: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(s.path), ".active-*")
	if err != nil {
		return fmt.Errorf("write the active pools: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), s.path)
	}
	if err != nil {
		return fmt.Errorf("write the active pools: %w", err)
	}
	return nil
}
