package gateway

import (
	"sync"

	"sheepdog"
)

// routes remembers whom a view's placements lead to. Partitions share rows of a
// table, so there are few, and requests ask by the hundred thousand.
type routes struct {
	view  *sheepdog.View
	known sync.Map // of routeKey to *route
}

type routeKey struct {
	placement *sheepdog.Placement
	policy    sheepdog.Policy
}

// route is who answers for a partition that can serve.
type route struct {
	since   sheepdog.Revision
	writers []sheepdog.Member // see writable
	readers []sheepdog.Member // see readable
}

// route finds who answers for a partition; nil if it cannot serve just now:
// writable and readable say why.
func (g *Gateway) route(v *sheepdog.View, policy sheepdog.Policy, part sheepdog.Partition) *route {
	p, ok := v.Placement(policy, part)
	if !ok {
		return nil
	}
	all := g.routes.Load()
	if all == nil || all.view != v {
		all = &routes{view: v}
		g.routes.Store(all)
	}
	key := routeKey{p, policy}
	if r, ok := all.known.Load(key); ok {
		return r.(*route)
	}
	_, writers, err := writable(v, policy, part, false)
	if err != nil {
		return nil
	}
	readers, err := g.readable(v, policy, part)
	if err != nil {
		return nil
	}
	r := &route{since: p.Since, writers: writers, readers: readers}
	all.known.Store(key, r)
	return r
}
