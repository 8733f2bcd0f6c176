package gateway

import (
	"sync"

	"sheepdog"
)

// routes remembers whom a view's placements lead to. Partitions share rows of a
// table, so there are few, and requests ask by the hundred thousand.
type routes struct {
	view   *sheepdog.View
	tables []*table
}

// table is a view's table with its policy: there are one or two.
type table struct {
	policy sheepdog.Policy
	rows   sheepdog.Table
	known  sync.Map // of *sheepdog.Placement to *route
}

func newRoutes(v *sheepdog.View) *routes {
	all := &routes{view: v}
	for policy, rows := range v.Tables {
		all.tables = append(all.tables, &table{policy: policy, rows: rows})
	}
	return all
}

// table is that of a policy, nil if there is none.
func (all *routes) table(policy sheepdog.Policy) *table {
	for _, t := range all.tables {
		if t.policy == policy {
			return t
		}
	}
	return nil
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
	all := g.routes.Load()
	if all == nil || all.view != v {
		all = newRoutes(v)
		g.routes.Store(all)
	}
	t := all.table(policy)
	if t == nil || int(part) >= len(t.rows) || t.rows[part] == nil {
		return nil
	}
	if r, ok := t.known.Load(t.rows[part]); ok {
		return r.(*route)
	}
	p, writers, err := writable(v, policy, part, false)
	if err != nil {
		return nil
	}
	readers, err := g.readable(v, policy, part)
	if err != nil {
		return nil
	}
	r := &route{since: p.Since, writers: writers, readers: readers}
	t.known.Store(p, r)
	return r
}
