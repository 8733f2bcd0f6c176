package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// A member that cannot be reached has just started, or is about to leave the view: what
// it holds is then held by others. So all are asked again each askAgain, or when the view
// changes, and after askPatience it is gone without.
const (
	askAgain    = 100 * time.Millisecond
	askPatience = 3 * time.Second
)

// askStoring sends a request to every member with storage at once, and calls add
// with the answers. Members that cannot be reached for long are left out, and named in the log.
func askStoring[T any](ctx context.Context, n *Node, method string, req any, add func(T)) error {
	answers, _, err := askMembers[T](ctx, n, method, req)
	for _, one := range answers {
		add(one)
	}
	return err
}

// askMembers is askStoring; it tells which members answered what, and the view that lists them.
func askMembers[T any](ctx context.Context, n *Node, method string, req any) (answers map[sheepdog.NodeID]T, view *sheepdog.View, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, nil, err
	}
	var absent []string
	err = n.patiently(ctx, func() (all bool, err error) {
		view = n.cluster.View()
		answers, absent, err = askOnce[T](ctx, n, storing(view), method, body)
		return len(absent) == 0, err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(absent) > 0 {
		n.log.Warn("members cannot be reached, and an answer goes without theirs", "members", absent, "method", method)
	}
	return answers, view, nil
}

// patiently calls ask until it has all, fails, or askPatience is over.
func (n *Node) patiently(ctx context.Context, ask func() (all bool, err error)) error {
	for end := time.Now().Add(askPatience); ; {
		view := n.cluster.View()
		all, err := ask()
		if all || err != nil || time.Now().After(end) {
			return err
		}
		select {
		case <-n.cluster.Changed(view):
		case <-time.After(askAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// storing lists the members that store.
func storing(view *sheepdog.View) []sheepdog.Member {
	return slices.DeleteFunc(slices.Clone(view.Members), func(m sheepdog.Member) bool { return m.VNodes == 0 })
}

// askOnce asks members side by side, and tells the addresses of those that could not be reached.
func askOnce[T any](ctx context.Context, n *Node, members []sheepdog.Member, method string, body []byte) (answers map[sheepdog.NodeID]T, absent []string, err error) {
	answers = make(map[sheepdog.NodeID]T, len(members))
	var mu sync.Mutex
	eg, ctx := errgroup.WithContext(ctx)
	for _, m := range members {
		eg.Go(func() error {
			var one T
			err := n.call(ctx, m, method, body, &one)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, sheepdog.ErrUnreachable):
				absent = append(absent, m.Addr)
			case err != nil:
				return fmt.Errorf("node %s: %w", m.Addr, err)
			default:
				answers[m.ID] = one
			}
			return nil
		})
	}
	err = eg.Wait()
	return answers, absent, err
}

// lives lists the other nodes' processes that this node knows of: those that the view lists and
// those that gossip has alive. A node that was just started is in the view as it was before, and
// one that joins is not there at all; an answer of one life is that of the node.
func (n *Node) lives() map[sheepdog.NodeID][]sheepdog.Member {
	out := make(map[sheepdog.NodeID][]sheepdog.Member)
	add := func(m sheepdog.Member) {
		same := func(o sheepdog.Member) bool { return o.Incarnation == m.Incarnation }
		if m.ID != n.self.ID && !slices.ContainsFunc(out[m.ID], same) {
			out[m.ID] = append(out[m.ID], m)
		}
	}
	for _, g := range n.cluster.Alive() {
		if id := n.clusterID(); !id.IsZero() && g.Cluster == id {
			add(g.Member)
		}
	}
	if v := n.cluster.View(); v != nil {
		for _, m := range v.Members {
			add(m)
		}
	}
	return out
}

// tellAll calls a method without an answer at every other node, side by side.
func (n *Node) tellAll(ctx context.Context, method string) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, lives := range n.lives() {
		wg.Go(func() {
			err := n.tell(ctx, lives, method)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// tell calls a method at the first life of a node that answers.
func (n *Node) tell(ctx context.Context, lives []sheepdog.Member, method string) (err error) {
	for _, m := range lives {
		if err = n.call(ctx, m, method, nil, nil); err == nil {
			return nil
		}
		err = fmt.Errorf("node %s: %w", m.Addr, err)
	}
	return err
}
