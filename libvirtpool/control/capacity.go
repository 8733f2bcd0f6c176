package control

import (
	"cmp"
	"context"
	"slices"
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

// capacity is what nodes can hold of data of a policy. Replicas of an object are
// in distinct zones, so a big zone beside small ones cannot be filled.
func capacity(nodes []api.NodeCapacity, p sheepdog.Policy) storage.Capacity {
	used, free := map[sheepdog.Zone]uint64{}, map[sheepdog.Zone]uint64{}
	var sum uint64
	for i := range nodes {
		n := &nodes[i]
		used[n.Zone] += n.UsedBytes
		free[n.Zone] += n.FreeBytes
		sum += n.UsedBytes
	}
	width := uint64(max(p.Zones(), 1))
	data := uint64(max(int(p.Copies), 1))
	if p.Parity == 0 {
		data = 1
	}
	c := storage.Capacity{Used: sum / width * data, Free: spread(free, width) * data}
	c.Total = c.Used + c.Free
	return c
}

// spread is how many bytes can be stored if each is in width distinct zones. With
// fewer zones than that, in all of them.
func spread(zones map[sheepdog.Zone]uint64, width uint64) uint64 {
	var room []uint64
	for _, n := range zones {
		if n > 0 {
			room = append(room, n)
		}
	}
	slices.SortFunc(room, func(a, b uint64) int { return cmp.Compare(b, a) })
	width = min(width, uint64(len(room)))
	if width == 0 {
		return 0
	}
	// The k largest zones take one replica of everything each; the rest share
	// what remains. The tightest k decides.
	var rest uint64
	for _, n := range room {
		rest += n
	}
	best := rest / width
	for k := uint64(1); k < width; k++ {
		rest -= room[k-1]
		best = min(best, rest/(width-k))
	}
	return best
}
