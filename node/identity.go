package node

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sheepdog"
)

// identity is what a metadata directory is, in META/identity.json. It is
// written once.
type identity struct {
	Format int             `json:"format"`
	ID     sheepdog.NodeID `json:"id"`
}

const identityFormat = 1

// identityPath is where a node's identity is.
func identityPath(meta string) string { return filepath.Join(meta, "identity.json") }

// loadIdentity reads the node's identity, or makes one in a new directory.
func loadIdentity(meta string) (sheepdog.NodeID, error) {
	path := identityPath(meta)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		id := identity{Format: identityFormat, ID: sheepdog.NodeID(random())}
		return id.ID, writeDurably(path, id)
	}
	if err != nil {
		return 0, err
	}
	var id identity
	if err := json.Unmarshal(b, &id); err != nil {
		return 0, fmt.Errorf("%s is damaged: %w; restore it from a copy, or start with an empty directory and let the cluster recover", path, err)
	}
	if id.Format != identityFormat || id.ID == 0 {
		return 0, fmt.Errorf("%s has format %d, this program knows %d; run the release that wrote it", path, id.Format, identityFormat)
	}
	return id.ID, nil
}

// hasIdentity reports whether the directory is that of a node already.
func hasIdentity(meta string) (bool, error) {
	_, err := os.Stat(identityPath(meta))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// random is never zero.
func random() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return max(binary.LittleEndian.Uint64(b[:]), 1)
}

// writeDurably writes a JSON file so that after a crash it is there whole or
// not at all.
func writeDurably(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
