package storage

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
)

// Driver answers for pools and volumes. It is safe for concurrent use.
type Driver struct {
	store  Store
	defs   Definitions
	log    *slog.Logger
	state  hostState
	events hub
	spool  string
	now    func() time.Time

	// change is held (one token) while pools change, also over requests to the
	// cluster; a channel, so that waiting for it respects contexts.
	change chan struct{}

	mu      sync.Mutex
	active  map[string]Definition // pools started on this host, as they were then
	defined map[string]Definition // as last loaded
	loaded  time.Time             // when defined was loaded; zero: never
	missed  error                 // why the last load failed; nil: it did not
	tried   time.Time             // when it failed
	boot    bool                  // autostart is still to be done
}

// Config is what a Driver needs.
type Config struct {
	Store       Store
	Definitions Definitions
	// StateFile remembers which pools are active; empty: not over a restart.
	StateFile string
	// SpoolDir holds images while they are converted; empty: the system's
	// directory for temporary files.
	SpoolDir string
	Logger   *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// New makes a driver. It does not ask the cluster yet. It fails if the state file
// cannot be used.
func New(c Config) (*Driver, error) {
	d := &Driver{store: c.Store, defs: c.Definitions, log: c.Logger, state: hostState{path: c.StateFile}, spool: c.SpoolDir,
		now: c.Now, change: make(chan struct{}, 1), events: hub{subs: map[int]func(Event){}}}
	if d.now == nil {
		d.now = time.Now
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	var err error
	d.active, d.boot, err = d.state.load()
	return d, err
}

// Reload loads the definitions now.
func (d *Driver) Reload(ctx context.Context) error { return d.refresh(ctx, 0) }

// refresh loads the definitions if they are older than age. Without the cluster
// the last ones known stay in use: the error is for callers that must be sure.
// Others do not wait for a cluster that just did not answer.
func (d *Driver) refresh(ctx context.Context, age time.Duration) error {
	d.mu.Lock()
	recent := !d.loaded.IsZero() && d.now().Sub(d.loaded) < age
	d.mu.Unlock()
	if recent {
		return nil
	}
	if missed := d.silent(); missed != nil && age > 0 {
		return failure(missed, doingLoad)
	}
	began := d.now()
	list, err := d.load(ctx, age)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil || ctx.Err() == nil { // a caller who gave up says nothing of the cluster
		d.missed, d.tried = err, d.now()
	}
	if err != nil {
		return failure(err, doingLoad)
	}
	if began.Before(d.loaded) {
		return nil // a change of ours, or a newer answer, came in between
	}
	defined := make(map[string]Definition, len(list))
	for _, def := range list {
		defined[def.Name] = def
	}
	d.defined, d.loaded = defined, began
	d.autostart()
	return nil
}

const doingLoad = "load the pool definitions"

// silent is why the cluster did not answer a moment ago; nil: it did, or was not
// asked.
func (d *Driver) silent() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.missed == nil || d.now().Sub(d.tried) >= missedAge {
		return nil
	}
	return d.missed
}

// load asks the cluster; who can do with what is known does not wait long for it.
func (d *Driver) load(ctx context.Context, age time.Duration) ([]Definition, error) {
	d.mu.Lock()
	known := !d.loaded.IsZero()
	d.mu.Unlock()
	if known && age > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, knownPatience, fmt.Errorf("%w: no answer within %v", sheepdog.ErrUnreachable, knownPatience))
		defer cancel()
	}
	return d.defs.Load(ctx)
}

// autostart activates, once after boot, what should be. It is called with mu.
func (d *Driver) autostart() {
	if !d.boot {
		return
	}
	d.boot = false
	for name, def := range d.defined {
		if def.Autostart {
			d.active[name] = def
		}
	}
	if err := d.state.save(d.active); err != nil {
		d.log.Error("active pools were not written down", "err", err)
	}
}

// pools is all pools, by name.
func (d *Driver) pools(ctx context.Context) []Pool {
	if err := d.refresh(ctx, definitionsAge); err != nil {
		d.log.Warn("pools are shown as last known", "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]Pool, len(d.defined)+len(d.active))
	for name := range d.defined {
		all[name] = d.pool(name)
	}
	for name := range d.active {
		all[name] = d.pool(name)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
}

// pool joins what is known of a name. It is called with mu.
func (d *Driver) pool(name string) Pool {
	def, persistent := d.defined[name]
	p := Pool{Definition: def, Persistent: persistent}
	if running, ok := d.active[name]; ok {
		p.Definition, p.Active = running, true
		p.Autostart = def.Autostart
	}
	return p
}

// find looks a pool up, and once more with new definitions before it gives up.
func (d *Driver) find(ctx context.Context, match func(*Pool) bool) (Pool, bool) {
	for _, age := range []time.Duration{definitionsAge, 0} {
		err := d.refresh(ctx, age)
		for _, p := range d.known() {
			if match(&p) {
				return p, true
			}
		}
		if err != nil {
			d.log.Warn("pools are looked up as last known", "err", err)
			break
		}
	}
	return Pool{}, false
}

// known is the pools without asking the cluster, in no order.
func (d *Driver) known() []Pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Pool
	for name := range d.active {
		out = append(out, d.pool(name))
	}
	for name := range d.defined {
		if _, ok := d.active[name]; !ok {
			out = append(out, d.pool(name))
		}
	}
	return out
}

// Knows reports whether a pool is ours by what was last known. It never waits.
func (d *Driver) Knows(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, defined := d.defined[name]
	_, active := d.active[name]
	return defined || active
}

// KnowsUUID is Knows for a UUID.
func (d *Driver) KnowsUUID(u rpc.UUID) bool {
	return slices.ContainsFunc(d.known(), func(p Pool) bool { return p.UUID == u })
}

// PoolOfNamespace is the name of the pool, defined or active, whose volumes have
// VDIs in the name space, by what was last known.
func (d *Driver) PoolOfNamespace(namespace string) (string, bool) {
	for _, p := range d.known() {
		if p.Namespace == namespace {
			return p.Name, true
		}
	}
	return "", false
}

// Lookup finds a pool by name.
func (d *Driver) Lookup(ctx context.Context, name string) (Pool, error) {
	p, ok := d.find(ctx, func(p *Pool) bool { return p.Name == name })
	if !ok {
		return p, rpc.Errorf(rpc.CodeNoPool, "no storage pool with matching name '%s'", name)
	}
	return p, nil
}

// LookupUUID finds a pool by UUID.
func (d *Driver) LookupUUID(ctx context.Context, u rpc.UUID) (Pool, error) {
	p, ok := d.find(ctx, func(p *Pool) bool { return p.UUID == u })
	if !ok {
		return p, rpc.Errorf(rpc.CodeNoPool, "no storage pool with matching uuid '%s'", FormatUUID(u))
	}
	return p, nil
}

// Is fails unless the pool of that name has that UUID: the pool that was meant may
// be gone, and another one have its name.
func (d *Driver) Is(ctx context.Context, name string, u rpc.UUID) error {
	if _, ok := d.find(ctx, func(p *Pool) bool { return p.Name == name && p.UUID == u }); !ok {
		return rpc.Errorf(rpc.CodeNoPool, "no storage pool with matching uuid '%s' (%s)", FormatUUID(u), name)
	}
	return nil
}

// activePool finds a pool that must be active.
func (d *Driver) activePool(ctx context.Context, name string) (Pool, error) {
	p, err := d.Lookup(ctx, name)
	if err == nil && !p.Active {
		err = rpc.Errorf(rpc.CodeInvalid, "storage pool '%s' is not active", name)
	}
	return p, err
}

// Filter selects pools in a list. Where neither of a pair is set, both match.
type Filter struct {
	Inactive, Active      bool
	Persistent, Transient bool
	Autostart, Manual     bool
}

func (f Filter) matches(p *Pool) bool {
	pick := func(yes, no, is bool) bool { return yes == no || yes == is }
	return pick(f.Active, f.Inactive, p.Active) && pick(f.Persistent, f.Transient, p.Persistent) &&
		pick(f.Autostart, f.Manual, p.Autostart)
}

// Pools lists pools by name.
func (d *Driver) Pools(ctx context.Context, f Filter) []Pool {
	list := slices.DeleteFunc(d.pools(ctx), func(p Pool) bool { return !f.matches(&p) })
	return list[:min(len(list), maxPools)]
}

// NamespaceOfPool is the name space of a pool of ours, by what was last known.
func (d *Driver) NamespaceOfPool(pool string) (string, bool) {
	for _, p := range d.known() {
		if p.Name == pool {
			return p.Namespace, true
		}
	}
	return "", false
}
