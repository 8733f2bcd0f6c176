package world

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
	"sheepdog/node"
)

// verdict is a test that may fail without failing the test that runs it.
type verdict struct {
	testing.TB
	mu  sync.Mutex
	why string
}

func (v *verdict) Helper() {}

func (v *verdict) Errorf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.why == "" {
		v.why = fmt.Sprintf(format, args...)
	}
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}

// trial plays a script and returns what was found wrong.
func trial(t *testing.T, opt Options, s Script) string {
	v := &verdict{}
	synctest.Test(t, func(t *testing.T) {
		v.TB = t
		w := New(v, opt)
		defer w.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := w.Run(s); err != nil {
				v.Errorf("%v", err)
			}
		}()
		<-done
	})
	return v.why
}

// wrapped is a replica some calls of which are replaced.
type wrapped struct {
	sheepdog.Replica
	write func(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error))
	read  func(ctx context.Context, r *sheepdog.ReadRequest) error
	seal  func(ctx context.Context, r *sheepdog.SealRequest) (*sheepdog.SealReply, error)
	flush func(ctx context.Context, r *sheepdog.FlushRequest) error
}

func (w *wrapped) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	if w.write != nil {
		w.write(ctx, reqs, done)
		return
	}
	w.Replica.Write(ctx, reqs, done)
}

func (w *wrapped) Read(ctx context.Context, r *sheepdog.ReadRequest) error {
	if w.read != nil {
		return w.read(ctx, r)
	}
	return w.Replica.Read(ctx, r)
}

func (w *wrapped) Seal(ctx context.Context, r *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	if w.seal != nil {
		return w.seal(ctx, r)
	}
	return w.Replica.Seal(ctx, r)
}

func (w *wrapped) Flush(ctx context.Context, r *sheepdog.FlushRequest) error {
	if w.flush != nil {
		return w.flush(ctx, r)
	}
	return w.Replica.Flush(ctx, r)
}

// wrapping puts a fault around all replicas of a node.
func wrapping(change func(h *Host, to sheepdog.Member, w *wrapped)) func(*Host, *node.Config) {
	return func(h *Host, cfg *node.Config) {
		cfg.Wrap = func(to sheepdog.Member, r sheepdog.Replica) sheepdog.Replica {
			w := &wrapped{Replica: r}
			change(h, to, w)
			return w
		}
	}
}

// ackEarly acknowledges writes to other nodes before they have them.
func ackEarly(h *Host, to sheepdog.Member, w *wrapped) {
	if to.ID == sheepdog.NodeID(h.Number) {
		return
	}
	w.write = func(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
		var own []*sheepdog.WriteRequest
		for _, r := range reqs {
			c := *r
			c.Data = slices.Clone(r.Data)
			own = append(own, &c)
		}
		w.Replica.Write(context.WithoutCancel(ctx), own, func(int, error) {})
		for i := range reqs {
			done(i, nil)
		}
	}
}

// readAnywhere serves reads from what this node happens to have.
func readAnywhere(h *Host, _ sheepdog.Member, w *wrapped) {
	w.read = func(ctx context.Context, r *sheepdog.ReadRequest) error {
		h.world.mu.Lock()
		n, e := h.node, h.engine
		h.world.mu.Unlock()
		if n == nil || e == nil {
			return w.Replica.Read(ctx, r)
		}
		chain, ok := n.Directory().Chain(r.Layer)
		if !ok {
			return w.Replica.Read(ctx, r)
		}
		return e.Read(r.Object, chain, r.Start, r.Count, r.Buf, r.States)
	}
}

// forgetDirty hides from a takeover what is dirty.
func forgetDirty(_ *Host, _ sheepdog.Member, w *wrapped) {
	w.seal = func(ctx context.Context, r *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
		reply, err := w.Replica.Seal(ctx, r)
		if err == nil && r.Family != 0 {
			reply.Dirty = nil
		}
		return reply, err
	}
}

// forgetOrigins hides from a takeover which forwarded writes were applied.
func forgetOrigins(_ *Host, _ sheepdog.Member, w *wrapped) {
	w.seal = func(ctx context.Context, r *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
		reply, err := w.Replica.Seal(ctx, r)
		if err == nil {
			reply.Origins = nil
		}
		return reply, err
	}
}

// skipRemoteFlush flushes no other node.
func skipRemoteFlush(h *Host, to sheepdog.Member, w *wrapped) {
	if to.ID != sheepdog.NodeID(h.Number) {
		w.flush = func(context.Context, *sheepdog.FlushRequest) error { return nil }
	}
}

// slowClock makes the leases of the first host last fifty times as long as they
// should.
func slowClock(h *Host, cfg *node.Config) {
	clock := cfg.Clock
	if h.Number == 1 {
		cfg.Clock = func() time.Duration { return clock() / 50 }
	}
}

func diskFault(f DiskFaults) func(*Host, *node.Config) {
	return func(h *Host, _ *node.Config) { h.Faults = f }
}

// slow is a network on which the replicas get a write at different times, and
// much happens while it is under way.
var slow = sim.NetOptions{Latency: time.Millisecond, Jitter: 5 * time.Millisecond}

// crowded has many guests meet in few blocks.
func crowded(faults []Fault) Script {
	return Script{Faults: faults, Count: 8, Clients: 8, Disks: 1, Size: 128 << 10, Pause: 2 * time.Millisecond, Calm: 400 * time.Millisecond}
}

// cutFirst cuts the first host off for longer than a lease.
func cutFirst(p *Play) bool {
	p.sleep(time.Second)
	first := p.hosts[0]
	for _, o := range p.Hosts()[1:] {
		p.net.Partition([]string{first.Name}, []string{o.Name})
	}
	time.Sleep(5 * time.Second)
	p.Heal()
	return true
}

// TestBrokenVariantsAreFound has the simulation find deliberate faults. It is
// what says that a silence of the others means something.
func TestBrokenVariantsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	for _, v := range []struct {
		name   string
		fault  func(*Host, *node.Config)
		faults []Fault
	}{
		{"the disk skips flushes", diskFault(DiskFaults{SkipFlush: true}), Only("power-loss-all")},
		{"a flush asks this node only", wrapping(skipRemoteFlush), Only("power-loss-all", "power-loss")},
		{"older writes and backfill replace newer blocks", diskFault(DiskFaults{SkipStamps: true}), Only("kill", "freeze", "isolate", "kill-quick")},
		{"rotten bytes are delivered", diskFault(DiskFaults{SkipSums: true}), Only("rot")},
		{"acknowledged before all have it", wrapping(ackEarly), Only("kill", "kill-two", "isolate", "power-loss")},
		{"reads of replicas that do not act", wrapping(readAnywhere), Only("isolate", "freeze", "kill")},
		{"leases do not end", slowClock, []Fault{{"cut-first", cutFirst}}},
		{"takeover without reconciliation", wrapping(forgetDirty), Only("kill", "kill-quick", "kill-all")},
		{"forwarded writes are applied twice", wrapping(forgetOrigins), Only("kill", "isolate", "kill-quick")},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			limit := number(t, "BROKEN", 6)
			for seed := uint64(1); seed <= uint64(limit); seed++ {
				why := trial(t, Options{Seed: seed, Nodes: 3, Break: v.fault, Network: slow}, crowded(v.faults))
				if why != "" {
					t.Logf("found with seed %d: %.300s", seed, why)
					return
				}
			}
			t.Errorf("not found within %d seeds", limit)
		})
	}
}
