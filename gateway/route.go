package gateway

import (
	"sync"
	"sync/atomic"

	"sheepdog"
)

// routes remembers whom a view's placements lead to. Partitions share rows of a
// table, so there are few, and requests ask by the hundred thousand.
type routes struct {
	view   *sheepdog.View
	known  sync.Map // of routeKey to *route
	tables []table  // of the view
	latest [latestRoutes]atomic.Pointer[route]
}

// latestRoutes is for how many partitions the route found last is at hand.
const latestRoutes = 1024

// table is a view's table with its policy: there are one or two.
type table struct {
	policy sheepdog.Policy
	rows   sheepdog.Table
}

func newRoutes(v *sheepdog.View) *routes {
	all := &routes{view: v}
	for policy, rows := range v.Tables {
		all.tables = append(all.tables, table{policy, rows})
	}
	return all
}

// placement is View.Placement.
func (all *routes) placement(policy sheepdog.Policy, part sheepdog.Partition) *sheepdog.Placement {
	for i := range all.tables {
		if t := &all.tables[i]; t.policy == policy && int(part) < len(t.rows) {
			return t.rows[part]
		}
	}
	return nil
}

type routeKey struct {
	placement *sheepdog.Placement
	policy    sheepdog.Policy
}

// route is who answers for a partition that can serve.
type route struct {
	routeKey
	since   sheepdog.Revision
	writers []sheepdog.Member // see writable
	readers []sheepdog.Member // see readable
}

// route finds who answers for a partition; nil if it cannot serve just now:
// writable and readable say why.
func (g *Gateway) route(v *sheepdog.View, policy sheepdog.Policy, part sheepdog.Partition) *route {
	all := g.routes.Load()
	if all == nil || all.view != v {
		all = newRoutes(v)
		g.routes.Store(all)
	}
	p := all.placement(policy, part)
	if p == nil {
		return nil
	}
	key, latest := routeKey{p, policy}, &all.latest[part%latestRoutes]
	if r := latest.Load(); r != nil && r.routeKey == key {
		return r
	}
	r := g.findRoute(all, key, part)
	if r != nil {
		latest.Store(r)
	}
	return r
}

func (g *Gateway) findRoute(all *routes, key routeKey, part sheepdog.Partition) *route {
	if r, ok := all.known.Load(key); ok {
		return r.(*route)
	}
	p, writers, err := writable(all.view, key.policy, part, false)
	if err != nil {
		return nil
	}
	readers, err := g.readable(all.view, key.policy, part)
	if err != nil {
		return nil
	}
	r := &route{routeKey: key, since: p.Since, writers: writers, readers: readers}
	all.known.Store(key, r)
	return r
}
