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

// pruneLoop has the leader forget absorbed layers that every storing member has
// merged. A node that is no member now starts as a target when it returns, and
// drops what the directory does not list.
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
	storing := 0
	for _, m := range v.Members {
		if m.VNodes == 0 {
			continue
		}
		storing++
		var merged []sheepdog.LayerID
		if err := n.call(ctx, m, methodMerged, nil, &merged); err != nil {
			return err
		}
		for _, l := range merged {
			by[l]++
		}
	}
	cmd := &directory.Prune{Time: time.Now(), Epoch: v.Epoch, Layers: make(map[sheepdog.LayerID][]sheepdog.LayerID)}
	for _, l := range absorbing {
		for _, a := range l.Absorbed {
			if by[a] == storing {
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
