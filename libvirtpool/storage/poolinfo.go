package storage

import "context"

// PoolState is libvirt's number for the state of a pool.
type PoolState uint32

// The states of our pools.
const (
	PoolInactive     PoolState = 0
	PoolRunning      PoolState = 2
	PoolInaccessible PoolState = 4 // the cluster does not serve
)

// PoolInfo is the state and, of active pools, the space of the cluster, which all
// its pools share.
type PoolInfo struct {
	State PoolState
	Capacity
}

// Info tells the state of a pool. A cluster that does not serve is no error.
func (d *Driver) Info(ctx context.Context, name string) (PoolInfo, error) {
	p, err := d.Lookup(ctx, name)
	if err != nil || !p.Active {
		return PoolInfo{}, err
	}
	err = d.silent() // virsh asks for the info of every pool that it lists
	var c Capacity
	if err == nil {
		c, err = d.store.Capacity(ctx)
	}
	if unreachable(err) {
		d.log.Warn("the cluster does not serve", "pool", name, "err", err)
		return PoolInfo{State: PoolInaccessible}, nil
	}
	if err != nil {
		return PoolInfo{}, failure(err, "ask for the space of the cluster")
	}
	return PoolInfo{State: PoolRunning, Capacity: c}, nil
}

// View says which of a pool's two definitions is meant.
type View int

// The views of a pool.
const (
	Current  View = iota // as it runs, else as it is defined
	Inactive             // as it will be when started next
)

// XML describes a pool.
func (d *Driver) XML(ctx context.Context, name string, v View) (string, error) {
	info, err := d.Info(ctx, name)
	if err != nil {
		return "", err
	}
	p, err := d.Lookup(ctx, name)
	if err != nil {
		return "", err
	}
	if v == Inactive && p.Persistent {
		d.mu.Lock()
		p.Definition = d.defined[name]
		d.mu.Unlock()
	}
	return poolXML(p.Definition, info.Capacity), nil
}
