package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// merges is which absorbed layers this node has merged: it holds nothing under
// their ids any more.
type merges struct {
	mu     sync.Mutex
	merged map[sheepdog.LayerID]bool
}

func (m *merges) done(layers []sheepdog.LayerID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.merged == nil {
		m.merged = make(map[sheepdog.LayerID]bool)
	}
	for _, l := range layers {
		m.merged[l] = true
	}
}

// report lists what was merged, and forgets what the directory has pruned.
func (m *merges) report(listed func(sheepdog.LayerID) bool) []sheepdog.LayerID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []sheepdog.LayerID
	for l := range m.merged {
		if listed(l) {
			out = append(out, l)
		} else {
			delete(m.merged, l)
		}
	}
	slices.Sort(out)
	return out
}

// pruneEvery is how often the leader looks for names of absorbed layers that
// can go.
const pruneEvery = 2 * time.Second

// pruneLoop has the leader forget absorbed layers that every holder has merged.
// Another node starts as a target when it returns, and drops what the directory
// does not list.
func (n *Node) pruneLoop() {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-n.ctx.Done():
			return
		}
		if _, leads := n.cluster.Leader(); !leads {
			continue
		}
		if err := n.prune(n.ctx); err != nil && n.ctx.Err() == nil {
			n.log.Debug("absorbed layers stay for now", "err", err)
		}
	}
}

func (n *Node) prune(ctx context.Context) error {
	absorbing := n.dir.Absorbing()
	v := n.cluster.View()
	if len(absorbing) == 0 || v == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	by := make(map[sheepdog.LayerID]int)
	asked, err := holders(v)
	if err != nil {
		return err
	}
	for _, m := range asked {
		var merged []sheepdog.LayerID
		if err := n.call(ctx, m, methodMerged, nil, &merged); err != nil {
			return err
		}
		for _, l := range merged {
			by[l]++
		}
	}
	cmd := &directory.Prune{Time: n.cfg.Now(), Epoch: v.Epoch, Layers: make(map[sheepdog.LayerID][]sheepdog.LayerID)}
	for _, l := range absorbing {
		for _, a := range l.Absorbed {
			if by[a] == len(asked) {
				cmd.Layers[l.ID] = append(cmd.Layers[l.ID], a)
			}
		}
	}
	if len(cmd.Layers) == 0 {
		return nil
	}
	kind, body, err := directory.Encode(cmd)
	if err != nil {
		return err
	}
	_, err = n.cluster.Propose(ctx, kind, body)
	return err
}

// holders lists the members that blocks of copied layers may be with: those that
// store, and those that still act. There is no telling, and an error, while one
// that acts is away: it acts again when it returns, as the last of its partition,
// and what it holds under a name that was forgotten it would drop.
func holders(v *sheepdog.View) ([]sheepdog.Member, error) {
	acts, seen := make(map[sheepdog.NodeID]bool), make(map[*sheepdog.Placement]bool)
	for policy, table := range v.Tables {
		for _, pl := range table {
			if policy.IsStrips() || seen[pl] {
				continue
			}
			seen[pl] = true
			for _, id := range pl.Acting {
				if _, member := v.Member(id); !member {
					return nil, fmt.Errorf("node %s acts and is away: %w", id, sheepdog.ErrNotActing)
				}
				acts[id] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(v.Members), func(m sheepdog.Member) bool { return m.VNodes == 0 && !acts[m.ID] }), nil
}

// gatePrune refuses to forget layers when the members are not those that were
// asked. One that joined meanwhile may still hold blocks under a name that is
// to be forgotten, which the others have under another name: it compares equal
// before the commit, and drops them after it.
func (n *Node) gatePrune(cmd directory.Prune) error {
	if now := n.cluster.View(); now.Epoch != cmd.Epoch {
		return fmt.Errorf("prune asked the members of epoch %d, it is %d now: %w", cmd.Epoch, now.Epoch, sheepdog.ErrConflict)
	}
	return nil
}

// gateRetire refuses to empty a layer when the members are not those that were
// seen to know where its bytes are now.
func (n *Node) gateRetire(cmd directory.Retire) error {
	if now := n.cluster.View(); now.Epoch != cmd.Epoch {
		return fmt.Errorf("retire asked the members of epoch %d, it is %d now: %w", cmd.Epoch, now.Epoch, sheepdog.ErrConflict)
	}
	return nil
}

// handleMerged answers methodMerged.
func (n *Node) handleMerged() ([]byte, error) {
	return json.Marshal(n.merges.report(n.dir.Listed))
}
