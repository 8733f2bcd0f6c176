package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
)

// lock waits for its turn to change pools.
func (d *Driver) lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, turnPatience, fmt.Errorf("%w: that one has not ended within %v", sheepdog.ErrBusy, turnPatience))
	defer cancel()
	select {
	case d.change <- struct{}{}:
		return nil
	case <-ctx.Done():
		return failure(context.Cause(ctx), "wait for another change of pools")
	}
}

func (d *Driver) unlock() { <-d.change }

// changing runs f on a pool that is looked up freshly, while no other pool
// changes on this host.
func (d *Driver) changing(ctx context.Context, name string, f func(Pool) error) error {
	if err := d.lock(ctx); err != nil {
		return err
	}
	defer d.unlock()
	p, err := d.Lookup(ctx, name)
	if err != nil {
		return err
	}
	return f(p)
}

// duplicate is libvirt's check of a new definition against the pools that exist.
// It returns the pool that is meant to be replaced, if there is one.
func (d *Driver) duplicate(def Definition) (old *Pool, err error) {
	for _, p := range d.known() {
		switch {
		case p.Name == def.Name && p.UUID == def.UUID:
			old = &p
		case p.Name == def.Name:
			return nil, rpc.Errorf(rpc.CodeFailed, "pool '%s' is already defined with uuid %s", p.Name, FormatUUID(p.UUID))
		case p.UUID == def.UUID:
			return nil, rpc.Errorf(rpc.CodeFailed, "pool '%s' already exists with uuid %s", p.Name, FormatUUID(p.UUID))
		case p.Namespace == def.Namespace:
			return nil, rpc.Errorf(rpc.CodeFailed, "Storage source conflict with pool: '%s'", p.Name)
		}
	}
	return old, nil
}

// prepare parses XML and checks it against what the cluster has now.
func (d *Driver) prepare(ctx context.Context, text string) (def Definition, old *Pool, err error) {
	if def, err = parsePool(text); err != nil {
		return def, nil, err
	}
	if err = d.refresh(ctx, 0); err != nil {
		return def, nil, err
	}
	if old, err = d.duplicate(def); err == nil && old != nil {
		def.Autostart = old.Autostart
	}
	return def, old, err
}

// Define makes a pool persistent, or changes one that is.
func (d *Driver) Define(ctx context.Context, text string) (Pool, error) {
	if err := d.lock(ctx); err != nil {
		return Pool{}, err
	}
	defer d.unlock()
	def, old, err := d.prepare(ctx, text)
	if err != nil {
		return Pool{}, err
	}
	if old != nil && old.Persistent {
		err = d.defs.Replace(ctx, def)
	} else {
		err = d.defs.Add(ctx, def)
	}
	if errors.Is(err, sheepdog.ErrExists) {
		return Pool{}, rpc.Errorf(rpc.CodeFailed, "pool '%s' has just been defined on another host", def.Name)
	}
	if err != nil {
		return Pool{}, failure(err, "define the pool")
	}
	p := d.remember(def.Name, &def)
	d.events.send(def, PoolDefined)
	return p, nil
}

// remember notes a definition that the cluster has, or (nil) no longer has.
func (d *Driver) remember(name string, def *Definition) Pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	defined := maps.Clone(d.defined)
	if defined == nil {
		defined = map[string]Definition{}
	}
	if def != nil {
		defined[name] = *def
	} else {
		delete(defined, name)
	}
	d.defined, d.loaded = defined, d.now()
	return d.pool(name)
}

// CreateXML starts a pool from XML: a transient one, or the persistent one that
// it describes.
func (d *Driver) CreateXML(ctx context.Context, text string) (Pool, error) {
	if err := d.lock(ctx); err != nil {
		return Pool{}, err
	}
	defer d.unlock()
	def, old, err := d.prepare(ctx, text)
	if err != nil {
		return Pool{}, err
	}
	if old != nil && old.Active {
		return Pool{}, rpc.Errorf(rpc.CodeInvalid, "pool is already active as '%s'", old.Name)
	}
	return d.activate(def)
}

// Start activates a defined pool on this host.
func (d *Driver) Start(ctx context.Context, name string) error {
	return d.changing(ctx, name, func(p Pool) error {
		if p.Active {
			return rpc.Errorf(rpc.CodeInvalid, "storage pool '%s' is already active", name)
		}
		_, err := d.activate(p.Definition)
		return err
	})
}

func (d *Driver) activate(def Definition) (Pool, error) {
	if err := d.setActive(def.Name, &def); err != nil {
		return Pool{}, err
	}
	d.events.send(def, PoolStarted)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pool(def.Name), nil
}

// setActive notes that a pool is active, or (nil) is not, first on disk.
func (d *Driver) setActive(name string, def *Definition) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	active := maps.Clone(d.active)
	if def != nil {
		active[name] = *def
	} else {
		delete(active, name)
	}
	if err := d.state.save(active); err != nil {
		return rpc.Errorf(rpc.CodeFailed, "%v", err)
	}
	d.active, d.boot = active, false
	return nil
}

// Destroy deactivates a pool on this host; a transient one is gone then. Volumes
// stay.
func (d *Driver) Destroy(ctx context.Context, name string) error {
	return d.changing(ctx, name, func(p Pool) error {
		if !p.Active {
			return rpc.Errorf(rpc.CodeInvalid, "storage pool '%s' is not active", name)
		}
		if err := d.setActive(name, nil); err != nil {
			return err
		}
		d.events.send(p.Definition, PoolStopped)
		return nil
	})
}

// Undefine forgets an inactive pool in the whole cluster. Volumes stay.
func (d *Driver) Undefine(ctx context.Context, name string) error {
	return d.changing(ctx, name, func(p Pool) error {
		if err := mustBeInactive(p); err != nil {
			return err
		}
		if err := d.defs.Remove(ctx, name); err != nil && !errors.Is(err, sheepdog.ErrNotFound) {
			return failure(err, "undefine the pool")
		}
		d.remember(name, nil)
		d.events.send(p.Definition, PoolUndefined)
		return nil
	})
}

func mustBeInactive(p Pool) error {
	if p.Active {
		return rpc.Errorf(rpc.CodeInvalid, "storage pool '%s' is still active", p.Name)
	}
	return nil
}

// Build has nothing to prepare: a name space needs none.
func (d *Driver) Build(ctx context.Context, name string) error {
	return d.changing(ctx, name, func(p Pool) error {
		if p.Active {
			return rpc.Errorf(rpc.CodeInvalid, "storage pool '%s' is already active", name)
		}
		d.events.send(p.Definition, PoolCreated)
		return nil
	})
}

// DeletePool gives up an inactive pool's space, which is refused while it has
// volumes.
func (d *Driver) DeletePool(ctx context.Context, name string) error {
	return d.changing(ctx, name, func(p Pool) error {
		if err := mustBeInactive(p); err != nil {
			return err
		}
		vols, err := d.volumes(ctx, p)
		if err != nil {
			return err
		}
		if n := len(vols); n > 0 {
			return rpc.Errorf(rpc.CodeFailed, "storage pool '%s' still has %d volumes, delete them first", name, n)
		}
		d.events.send(p.Definition, PoolDeleted)
		return nil
	})
}

// Refresh looks at the cluster once, whatever the number of volumes.
func (d *Driver) Refresh(ctx context.Context, name string) error {
	p, err := d.activePool(ctx, name)
	if err != nil {
		return err
	}
	if err := d.refresh(ctx, 0); err != nil {
		return err
	}
	d.events.send(p.Definition, PoolRefreshed)
	return nil
}

// SetAutostart says, for all hosts, whether a pool starts with them.
func (d *Driver) SetAutostart(ctx context.Context, name string, on Autostart) error {
	return d.changing(ctx, name, func(p Pool) error {
		if !p.Persistent {
			return rpc.Errorf(rpc.CodeInvalidArg, "pool has no config file")
		}
		d.mu.Lock()
		def := d.defined[name]
		d.mu.Unlock()
		if def.Autostart == bool(on) {
			return nil
		}
		def.Autostart = bool(on)
		if err := d.defs.Replace(ctx, def); err != nil {
			return failure(err, "change autostart of the pool")
		}
		d.remember(name, &def)
		return nil
	})
}

// Autostart is whether a pool starts with a host.
type Autostart bool
