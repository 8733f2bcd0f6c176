package control

import (
	"context"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/libvirtpool/storage"
)

// capacityAge is how long the space of the cluster is not asked for again: it
// takes a request to every node.
const capacityAge = 2 * time.Second

// Capacity is the space of the cluster at its default redundancy.
func (s *Store) Capacity(ctx context.Context) (storage.Capacity, error) {
	s.mu.Lock()
	known, fresh := s.capacity, time.Since(s.asked) < capacityAge
	s.mu.Unlock()
	if fresh {
		return known, nil
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	cluster, err := s.c.Cluster(ctx)
	if err != nil {
		return storage.Capacity{}, err
	}
	nodes, err := s.c.Capacities(ctx)
	if err != nil {
		return storage.Capacity{}, err
	}
	c := capacity(nodes.Nodes, cluster.Config.Policy)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capacity, s.asked = c, time.Now()
	return c, nil
}

// capacity is what nodes hold, and can hold, of data of a policy.
func capacity(nodes []api.NodeCapacity, p sheepdog.Policy) storage.Capacity {
	var sum uint64
	for i := range nodes {
		sum += nodes[i].UsedBytes
	}
	all := api.Capacities{Nodes: nodes}
	c := storage.Capacity{Used: sum / uint64(max(p.Zones(), 1)) * uint64(p.DataStrips()), Free: all.Usable(p)}
	c.Total = c.Used + c.Free
	return c
}
