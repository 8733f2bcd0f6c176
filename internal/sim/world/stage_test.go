package world

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/node"
	"sheepdog/vdi"
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

// trial runs something in a world of a bubble and returns what was found wrong,
// and the trace.
func trial(t *testing.T, opt Options, run func(w *World) error) (why, trace string) {
	v := &verdict{}
	synctest.Test(t, func(t *testing.T) {
		v.TB = t
		opt.Log = testLog()
		w := New(v, opt)
		defer w.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := run(w); err != nil {
				v.Errorf("%v", err)
			}
		}()
		<-done
		trace = strings.Join(w.Trace(), "\n")
	})
	return v.why, trace
}

// stage is where a scene plays: a cluster with one VDI of 1 MiB, which guests
// use one call at a time and whose parts a scene holds up where it wants.
type stage struct {
	*World
	ledger *Ledger
	guests int

	hooks hooks
}

// hooks are what a scene changes between the nodes, beneath the fault that a
// test puts in.
type hooks struct {
	mu sync.Mutex
	// fails says that writes from one host to another fail at once.
	fails func(from, to int) bool
	// fetched is called after a host got bytes of another.
	fetched func(by int)
}

// scene brings a cluster into exactly the situation in which a fault shows.
type scene struct {
	nodes int // 3
	play  func(s *stage)
}

const stageDisk = "disk0"

// run sets the stage, plays the scene, and then checks as a Play does.
func (sc scene) run(t *testing.T, fault func(*Host, *node.Config)) (why, trace string) {
	s := &stage{ledger: NewLedger()}
	opt := Options{Seed: 1, Nodes: sc.nodes, Patience: 5 * time.Second, Break: func(h *Host, cfg *node.Config) {
		cfg.Wrap = func(to sheepdog.Member, r sheepdog.Replica) sheepdog.Replica { return s.hooked(h, to, r) }
		if fault != nil {
			fault(h, cfg)
		}
	}}
	return trial(t, opt, func(w *World) error {
		s.World = w
		w.BootAll()
		w.Format()
		s.ledger.Create(stageDisk, 1<<20)
		if _, err := w.hosts[0].Node().Backend().CreateVDI(context.Background(), &api.CreateRequest{Name: stageDisk, SizeBytes: 1 << 20}); err != nil {
			return err
		}
		s.ledger.Made(stageDisk)
		sc.play(s)
		return w.Conclude(s.ledger)
	})
}

func (s *stage) hooked(h *Host, to sheepdog.Member, r sheepdog.Replica) sheepdog.Replica {
	if to.ID == sheepdog.NodeID(h.Number) {
		return r
	}
	return &wrapped{Replica: r,
		write: func(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
			if fails := s.hooks.get().fails; fails == nil || !fails(h.Number, int(to.ID)) {
				r.Write(ctx, reqs, done)
				return
			}
			for i := range reqs {
				done(i, sheepdog.ErrUnreachable)
			}
		},
		fetch: func(ctx context.Context, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
			reply, err := r.Fetch(ctx, req)
			if fetched := s.hooks.get().fetched; fetched != nil && err == nil && req.WithData {
				fetched(h.Number)
			}
			return reply, err
		},
	}
}

type hookSet struct {
	fails   func(from, to int) bool
	fetched func(by int)
}

func (h *hooks) get() hookSet {
	h.mu.Lock()
	defer h.mu.Unlock()
	return hookSet{h.fails, h.fetched}
}

func (h *hooks) set(s hookSet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails, h.fetched = s.fails, s.fetched
}

func (s *stage) host(number int) *Host { return s.Hosts()[number-1] }

// awaitGone waits until the view of one host lacks the member of another.
func (s *stage) awaitGone(at, gone int) {
	s.Await(20*time.Second, fmt.Sprintf("node %d is removed", gone), func() error {
		v := s.host(at).Node().Cluster().View()
		if _, ok := v.Member(sheepdog.NodeID(gone)); ok {
			return fmt.Errorf("node %d has it in revision %d", at, v.Revision)
		}
		return nil
	})
}

// awaitMember waits until the view of one host has the present life of another.
func (s *stage) awaitMember(at, other int) {
	s.Await(20*time.Second, fmt.Sprintf("node %d is a member", other), func() error {
		v := s.host(at).Node().Cluster().View()
		if v == nil {
			return fmt.Errorf("node %d has no view", at)
		}
		m, ok := v.Member(sheepdog.NodeID(other))
		if !ok || m.Incarnation != s.host(other).Node().Self().Incarnation {
			return fmt.Errorf("node %d does not have it in revision %d", at, v.Revision)
		}
		return nil
	})
}

// cutOff separates a host from all others.
func (s *stage) cutOff(number int) {
	for _, o := range s.Hosts() {
		if o.Number != number {
			s.net.Partition([]string{s.host(number).Name}, []string{o.Name})
		}
	}
}

// powerLoss takes the power from all hosts; what was not flushed is gone.
func (s *stage) powerLoss() {
	for _, h := range s.Hosts() {
		h.PowerLossKeeping(0)
	}
	s.ledger.PowerLoss()
}

// acting lists the hosts that hold the VDI's first object, and the others.
func (s *stage) acting() (hold, others []int) {
	n := s.host(1).Node()
	d, err := n.Directory().Lookup(stageDisk)
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	f, _ := n.Directory().Family(d.Family)
	pl, _ := n.Cluster().View().Placement(f.Policy, sheepdog.ObjectID{Family: d.Family}.Partition())
	for _, h := range s.Hosts() {
		if pl.IsActing(sheepdog.NodeID(h.Number)) {
			hold = append(hold, h.Number)
		} else {
			others = append(others, h.Number)
		}
	}
	return hold, others
}

// actor is a guest that does what a scene says.
type actor struct {
	*stage
	id   int
	host *Host
	vol  *vdi.Volume
	ctx  context.Context
	end  context.CancelFunc
}

// guest attaches a guest at a host. Its calls end with the node or by leave.
func (s *stage) guest(host int) *actor {
	s.guests++
	a := &actor{stage: s, id: s.guests, host: s.host(host)}
	n := a.host.Node()
	a.ctx, a.end = context.WithTimeoutCause(a.host.life(), callLimit, errStalled)
	if err := n.Cluster().Barrier(a.ctx); err != nil {
		s.t.Fatalf("barrier at node %d: %v", host, err)
	}
	var err error
	if a.vol, err = n.VDIs().Open(stageDisk, ""); err != nil {
		s.t.Fatalf("open at node %d: %v", host, err)
	}
	return a
}

// note keeps an error that has no excuse.
func (a *actor) note(what string, err error) {
	a.Tracef("guest %d at %d: %s: %v", a.id, a.host.Number, what, err)
	if err != nil && a.ctx.Err() == nil {
		a.ledger.Fault(fmt.Errorf("guest %d at node %d: %s: %w", a.id, a.host.Number, what, err))
	}
}

// write writes whole blocks.
func (a *actor) write(block, count int) {
	p := make([]byte, count*sheepdog.BlockSize)
	off := uint64(block) * sheepdog.BlockSize
	call := a.ledger.Write(a.id, stageDisk, p, off)
	err := a.vol.WriteAt(a.ctx, p, off)
	call.Done(err)
	a.note(fmt.Sprintf("write value %d to %d blocks at %d", call.v, count, block), err)
}

// begin starts a write; the result is closed when it has ended.
func (a *actor) begin(block, count int) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.write(block, count)
	}()
	return ended
}

func (a *actor) read(block, count int) { a.readFor(block, count, callLimit) }

// readFor gives a read up after a while: then nothing is known.
func (a *actor) readFor(block, count int, limit time.Duration) {
	ctx, cancel := context.WithTimeout(a.ctx, limit)
	defer cancel()
	p := make([]byte, count*sheepdog.BlockSize)
	off := uint64(block) * sheepdog.BlockSize
	call := a.ledger.Read(a.id, stageDisk, len(p), off)
	err := a.vol.ReadAt(ctx, p, off)
	if err == nil {
		_ = call.Saw(p) // the ledger keeps what is wrong
	}
	if ctx.Err() != nil {
		err = nil
	}
	a.note(fmt.Sprintf("read %d blocks at %d", count, block), err)
}

func (a *actor) flush() {
	complete := a.ledger.Flush(stageDisk)
	err := a.vol.Flush(a.ctx)
	if err == nil {
		complete()
	}
	a.note("flush", err)
}

// settle writes elsewhere and flushes until the replicas know that nothing of
// before is dirty: a write tells them of the flush before it. What differs then
// no takeover will find.
func (a *actor) settle() {
	for range 2 {
		a.write(255, 1)
		a.flush()
	}
}

// leave closes the VDI, so that its coordinator may move.
func (a *actor) leave() {
	a.note("close", a.vol.Close(a.ctx))
	a.end()
}

// recovery enables or disables recovery.
func (s *stage) recovery(on bool) {
	if err := s.setRecovery(on); err != nil {
		s.t.Fatalf("set recovery: %v", err)
	}
}
