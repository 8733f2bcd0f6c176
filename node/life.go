package node

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"sheepdog"
)

// storeLife is the named fact that tells whether the store may have forgotten
// something: it may have whenever the machine was started since.
type storeLife struct {
	Boot string             `json:"boot"`
	Life sheepdog.StoreLife `json:"life"`
}

const storeLifeFact = "life"

// beginLife finds out which life of its store this process belongs to: the one
// before it if the machine has run ever since and nothing is missing, else a new
// one.
func (n *Node) beginLife() error {
	boot := n.cfg.Boot
	if boot == "" {
		boot = bootID()
	}
	b, err := n.engine.Get(storeLifeFact)
	if err != nil {
		return fmt.Errorf("read which boot the store was last used in: %w", err)
	}
	var last storeLife
	if b != nil {
		if err := json.Unmarshal(b, &last); err != nil {
			return fmt.Errorf("the store's record of its last boot is damaged: %w", err)
		}
	}
	n.self.Incomplete = n.lacks()
	if boot != "" && last.Boot == boot && !n.self.Incomplete {
		n.self.StoreLife = last.Life
		return nil
	}
	n.self.StoreLife = sheepdog.StoreLife(random())
	if b, err = json.Marshal(storeLife{Boot: boot, Life: n.self.StoreLife}); err != nil {
		return err
	}
	if err := n.engine.Put(storeLifeFact, b); err != nil {
		return fmt.Errorf("note which boot the store is used in: %w", err)
	}
	return nil
}

// lacks reports whether the store lacks something that it held: what was on a disk, or an
// object that is spoiled.
func (n *Node) lacks() bool {
	if n.store != nil && n.store.Incomplete() {
		return true
	}
	e, ok := n.engine.(sheepdog.SpoiledEngine)
	if !ok {
		return false
	}
	spoiled, _ := e.Spoiled()
	return len(spoiled) > 0
}

// bootID is the kernel's name for the time since the machine was started; empty
// where it has none, and then every start counts as one after a loss of power.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
