package node

import (
	"context"
	"encoding/json"
	"fmt"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster/state"
)

// A node that leaves in good order never waits for recovery. If nobody else has all of
// some data yet, as when the nodes that had it have just left too, the data wait until
// it is back: nothing is lost, but guests hang. An operator who asks a node to leave is
// asked whether that is meant; one who stops the process is told.

// soleHolder lists the partitions, under whatever policy, of which a member has the
// only complete replicas.
func soleHolder(v *sheepdog.View, id sheepdog.NodeID) (out state.PartitionList) {
	sole := func(p *sheepdog.Placement) bool {
		live, _ := v.ActingMembers(p)
		return len(live) == 1 && live[0].ID == id
	}
	for p := range sheepdog.Partitions {
		for _, t := range v.Tables {
			if sole(t[p]) {
				out = append(out, sheepdog.Partition(p))
				break
			}
		}
	}
	return out
}

// spare refuses to have a member leave that has the only complete replicas of anything.
// The last member may: nobody is left who would wait.
func (n *Node) spare(ctx context.Context, id sheepdog.NodeID) error {
	v := n.cluster.View()
	if v == nil || len(v.Members) == 1 {
		return nil
	}
	m, ok := v.Member(id)
	if !ok {
		return nil
	}
	sole := soleHolder(v, id)
	if len(sole) == 0 {
		return nil
	}
	var held state.PartitionList
	if err := n.call(ctx, m, methodHoldings, nil, &held); err != nil {
		return fmt.Errorf("node %s does not tell what it holds; --force has it leave all the same: %w", m.Addr, err)
	}
	if c := common(sole, held); c > 0 {
		return fmt.Errorf("node %s has the only complete replicas of %s, which would wait until it is back; wait until dog node recovery is empty, or give --force: %w", m.Addr, partitions(c), sheepdog.ErrBusy)
	}
	return nil
}

func partitions(n int) string {
	if n == 1 {
		return "1 partition"
	}
	return fmt.Sprintf("%d partitions", n)
}

// common counts what is in both of two ascending lists.
func common(a, b state.PartitionList) (n int) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			n++
			a, b = a[1:], b[1:]
		}
	}
	return n
}

// lastCopies is in the log of a node that has left with what nobody else has.
const lastCopies = "left with the only complete replicas of some data, which wait until this node is started again"

// sayLast logs that the cluster still counts on this node, which has left.
func (n *Node) sayLast(last state.PartitionList) {
	if len(last) == 0 {
		return
	}
	held, err := n.heldPartitions()
	if err != nil {
		n.log.Warn(lastCopies+", unless nothing is in them", "partitions", len(last), "meta", n.cfg.Meta, "err", err)
		return
	}
	if c := common(last, held); c > 0 {
		n.log.Warn(lastCopies, "partitions", c, "meta", n.cfg.Meta)
	}
}

// heldPartitions lists the partitions of which this node has anything, under whatever
// policy.
func (n *Node) heldPartitions() (state.PartitionList, error) {
	out := state.PartitionList{}
	err := n.engine.List(sheepdog.ListEntry{}, nil, func(e sheepdog.ListEntry) bool {
		if p := e.Object.Partition(); len(out) == 0 || out[len(out)-1] != p {
			out = append(out, p)
		}
		return true
	})
	return out, err
}

// handleHoldings tells them to another node.
func (n *Node) handleHoldings([]byte) ([]byte, error) {
	out, err := n.heldPartitions()
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// missing names the nodes that are no members and have complete replicas of a partition.
func (n *Node) missing(v *sheepdog.View, p *sheepdog.Placement) (out []string) {
	for _, id := range p.Acting {
		if _, ok := v.Member(id); !ok {
			m := api.Node{ID: id}
			n.recall(&m)
			if m.Addr == "" {
				m.Addr = id.String()
			}
			out = append(out, m.Addr)
		}
	}
	return out
}
