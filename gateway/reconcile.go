package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"sheepdog"
)

// reconciler makes the dirty blocks of one window equal on all replicas: the
// highest stamp wins.
type reconciler struct {
	g      *Gateway
	view   *sheepdog.View
	scope  sheepdog.Scope
	window window
	sealed *sealed

	writers   []sheepdog.Member
	witnesses []*witness
}

// witness is what one replica holds of a window.
type witness struct {
	member sheepdog.Member
	recs   []sheepdog.Record
	bad    map[sheepdog.BlockNo]bool // its bytes failed their checksum
	// counts tells of which blocks the replica may speak; nil: of all. A target
	// counts for what it reported dirty, because what else it holds is of unknown
	// worth (rule 8).
	counts map[sheepdog.BlockNo]bool
}

// run compares the records, without bytes, and pushes the winners where they
// differ: most dirty blocks are the same everywhere.
func (r *reconciler) run(ctx context.Context) error {
	p, writers, err := writable(r.view, r.scope.Policy, r.window.object.Partition(), true)
	if err != nil {
		return err
	}
	r.writers = writers
	if err := r.ask(ctx, p); err != nil {
		return err
	}
	for todo := r.differing(); len(todo) > 0; todo = r.differing() {
		if err := r.push(ctx, todo); err != nil {
			return err
		}
	}
	return nil
}

// ask collects the witnesses.
func (r *reconciler) ask(ctx context.Context, p *sheepdog.Placement) error {
	var mu sync.Mutex
	return r.g.each(ctx, r.writers, "fetch", func(ctx context.Context, m sheepdog.Member, to sheepdog.Replica) error {
		w := &witness{member: m, bad: make(map[sheepdog.BlockNo]bool)}
		if !p.IsActing(m.ID) {
			if w.counts = r.window.within(r.sealed.dirty[m.ID]); len(w.counts) == 0 {
				return nil
			}
		}
		reply, err := fetchWindow(ctx, to, r.fetch(r.window.start, r.window.count))
		if err != nil {
			return err
		}
		w.recs = reply.Records
		mu.Lock()
		defer mu.Unlock()
		r.witnesses = append(r.witnesses, w)
		return nil
	})
}

func (r *reconciler) fetch(start sheepdog.BlockNo, count uint32) *sheepdog.FetchRequest {
	return &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: r.view.Revision, Token: r.scope.Token}, Policy: r.scope.Policy,
		Object: r.window.object, Layer: r.window.layer, Start: start, Count: count}
}

func fetchWindow(ctx context.Context, from sheepdog.Replica, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	reply, err := from.Fetch(ctx, req)
	if errors.Is(err, sheepdog.ErrNotFound) {
		// The layer was absorbed since the seal: ask again what is dirty.
		return nil, fmt.Errorf("%w: %v", sheepdog.ErrStale, err)
	}
	return reply, err
}

// choice is a run of blocks that differ, and the witness that has the best of
// each.
type choice struct {
	from  *witness
	start sheepdog.BlockNo
	count uint32
	// newer is the stamp of a newer write of the block, whose bytes are bad wherever they
	// are; else zero. The run has this one block then.
	newer sheepdog.Stamp
}

// differing lists the dirty blocks that are not the same everywhere, in runs of
// one best witness, and notes those of which the newest write is lost.
func (r *reconciler) differing() []choice {
	var out []choice
	for _, run := range r.window.runs {
		for b := run.Start; b < run.Start+sheepdog.BlockNo(run.Count); b++ {
			best, newer, same := r.winner(b)
			if newer != (sheepdog.Stamp{}) {
				r.lost(b, newer)
			}
			if same || best == nil || r.record(best, b).State == sheepdog.Absent {
				continue
			}
			if newer != (sheepdog.Stamp{}) {
				out = append(out, choice{from: best, start: b, count: 1, newer: newer})
				continue
			}
			if n := len(out); n > 0 && out[n-1].newer == newer && out[n-1].from == best && out[n-1].start+sheepdog.BlockNo(out[n-1].count) == b {
				out[n-1].count++
				continue
			}
			out = append(out, choice{from: best, start: b, count: 1})
		}
	}
	return out
}

func (r *reconciler) record(w *witness, b sheepdog.BlockNo) *sheepdog.Record {
	return &w.recs[b-r.window.start]
}

// winner is the witness with the highest stamp of block b and good bytes, as far
// as is known; same says that all have the same.
//
// Where the highest stamp's bytes are bad on every replica that has it, newer is that
// stamp, and an acting replica with an older one wins. It undoes nothing that was
// acknowledged, for that every acting replica has. A target may lack it.
func (r *reconciler) winner(b sheepdog.BlockNo) (best *witness, newer sheepdog.Stamp, same bool) {
	same = true
	var first *sheepdog.Record
	var highest sheepdog.Stamp
	for _, w := range r.witnesses {
		if w.counts != nil && !w.counts[b] {
			same = false // it may hold anything
			continue
		}
		rec := r.record(w, b)
		if first == nil {
			first = rec
		}
		same = same && *rec == *first
		if highest.Less(rec.Stamp) {
			highest = rec.Stamp
		}
		if w.bad[b] {
			continue
		}
		if best == nil || r.record(best, b).Stamp.Less(rec.Stamp) {
			best = w
		}
	}
	if best == nil || r.record(best, b).Stamp == highest {
		return best, sheepdog.Stamp{}, same
	}
	best = nil
	for _, w := range r.witnesses {
		if w.counts == nil && !w.bad[b] && (best == nil || r.record(best, b).Stamp.Less(r.record(w, b).Stamp)) {
			best = w
		}
	}
	if best == nil {
		return nil, sheepdog.Stamp{}, same // it may have been acknowledged: whoever reads it gets an error
	}
	return best, highest, same
}

// lost notes a write of which the bytes are gone. Replicas remember it as applied, so
// that a retry must be told, and not be taken for done.
func (r *reconciler) lost(b sheepdog.BlockNo, stamp sheepdog.Stamp) {
	err := fmt.Errorf("block %d of object %s layer %d: %w in the newest write, which was not acknowledged, and it is undone; what was being written may be there or not and has to be written again",
		b, r.window.object, r.window.layer, sheepdog.ErrChecksum)
	r.g.log.Error("a takeover found the newest bytes of a block bad wherever they are and took older ones", "object", r.window.object,
		"layer", r.window.layer, "block", b, "token", stamp.Token, "seq", stamp.Seq)
	r.sealed.lose(err)
}

// push brings the chosen blocks to all replicas. Blocks whose bytes turn out to
// be bad stay, marked, for another choice.
func (r *reconciler) push(ctx context.Context, choices []choice) error {
	for _, c := range choices {
		reply, err := r.bytes(ctx, c)
		if err != nil {
			return err
		}
		var reqs []*sheepdog.WriteRequest
		for i := range c.count {
			b := c.start + sheepdog.BlockNo(i)
			if slices.Contains(reply.Bad, b) {
				c.from.bad[b] = true
				continue
			}
			if c.newer != (sheepdog.Stamp{}) {
				reply.Records[i].Stamp = c.newer // a lower one would replace nothing where that is
			}
			reqs = append(reqs, r.repair(b, reply.Records[i], reply.Data[i*sheepdog.BlockSize:][:sheepdog.BlockSize]))
		}
		if len(reqs) == 0 {
			continue
		}
		if err := r.g.fanOut(ctx, reqs, r.writers); err != nil {
			return err
		}
		for _, w := range reqs {
			r.settle(w.Start, reply.Records[w.Start-c.start])
		}
	}
	return nil
}

// bytes fetches what was chosen. Nobody writes under the sealed token but other
// repairs, and those push the same winners: the records must be those compared.
func (r *reconciler) bytes(ctx context.Context, c choice) (*sheepdog.FetchReply, error) {
	req := r.fetch(c.start, c.count)
	req.WithData = true
	reply, err := fetchWindow(ctx, r.g.peers.Replica(c.from.member), req)
	if err != nil {
		r.g.note(c.from.member, err)
		return nil, r.g.nodeError("fetch", c.from.member, err)
	}
	at := c.start - r.window.start
	if !slices.Equal(reply.Records, c.from.recs[at:at+sheepdog.BlockNo(c.count)]) {
		return nil, fmt.Errorf("%w: object %s layer %d changed during the takeover", sheepdog.ErrStale, r.window.object, r.window.layer)
	}
	return reply, nil
}

func (r *reconciler) repair(b sheepdog.BlockNo, rec sheepdog.Record, data []byte) *sheepdog.WriteRequest {
	w := &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: r.view.Revision, Token: r.scope.Token}, Policy: r.scope.Policy,
		Object: r.window.object, Layer: r.window.layer, Start: b, Count: 1, Stamp: rec.Stamp, Repair: true}
	if rec.State == sheepdog.Data {
		w.Data = data
	}
	return w
}

// settle notes that all witnesses have the record now.
func (r *reconciler) settle(b sheepdog.BlockNo, rec sheepdog.Record) {
	for _, w := range r.witnesses {
		*r.record(w, b) = rec
		delete(w.bad, b)
		if w.counts != nil {
			w.counts[b] = true
		}
	}
}
