package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"sheepdog"
)

// Limits of what the state machine remembers of answered requests.
const (
	maxClients  = 4096 // processes; the one that was quiet longest is forgotten
	maxInFlight = 256  // proposals of one process at a time
	maxAnswer   = 64 << 10
)

// requests remembers the answers of applied commands until their proposers
// have seen them, so that a command that was sent twice is applied once. It is
// part of the state machine: every step depends on the log alone.
type requests struct {
	mu      sync.RWMutex // writers are the state machine alone
	clients map[sheepdog.Incarnation]*client
}

type client struct {
	Last    uint64             // index of the newest entry
	Floor   uint64             // answers up to this sequence number are gone
	Answers map[uint64]outcome // by sequence number, all above Floor
}

func newRequests() *requests {
	return &requests{clients: make(map[sheepdog.Incarnation]*client)}
}

// before returns the answer if the request was applied already. A request
// whose answer is forgotten gets an error: it may have been applied.
func (r *requests) before(index uint64, q request) (outcome, bool) {
	if q.Client == 0 {
		return outcome{}, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[q.Client]
	if c == nil {
		c = &client{Answers: make(map[uint64]outcome)}
		r.clients[q.Client] = c
		r.evict(q.Client)
	}
	c.Last = index
	if q.Done > c.Floor && q.Done < q.Seq {
		c.raise(q.Done)
	}
	if q.Seq <= c.Floor {
		err := fmt.Errorf("request %v/%d came too late: %w", q.Client, q.Seq, sheepdog.ErrConflict)
		return outcomeOf(index, nil, err), true
	}
	o, ok := c.Answers[q.Seq]
	return o, ok
}

// after records the answer of a request that was just applied.
func (r *requests) after(q request, o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[q.Client]
	if c == nil {
		return
	}
	if len(o.Result) > maxAnswer {
		text := fmt.Sprintf("the command was applied, but its answer of %d bytes is not kept for a retry", len(o.Result))
		o = outcome{Index: o.Index, Code: sheepdog.ErrorCode(sheepdog.ErrConflict), Result: []byte(text)}
	}
	c.Answers[q.Seq] = o
	if len(c.Answers) > 2*maxInFlight {
		seqs := slices.Sorted(maps.Keys(c.Answers))
		c.raise(seqs[len(seqs)-2*maxInFlight-1])
	}
}

// answer looks for a remembered answer without a trace; for everybody.
func (r *requests) answer(q request) (outcome, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c := r.clients[q.Client]
	if c == nil {
		return outcome{}, false
	}
	o, ok := c.Answers[q.Seq]
	return o, ok
}

func (c *client) raise(floor uint64) {
	c.Floor = floor
	maps.DeleteFunc(c.Answers, func(seq uint64, _ outcome) bool { return seq <= floor })
}

// evict forgets the client that was quiet longest once there are too many.
func (r *requests) evict(keep sheepdog.Incarnation) {
	if len(r.clients) <= maxClients {
		return
	}
	var victim sheepdog.Incarnation
	for id, c := range r.clients {
		if id == keep {
			continue
		}
		if v := r.clients[victim]; v == nil || c.Last < v.Last || c.Last == v.Last && id < victim {
			victim = id
		}
	}
	delete(r.clients, victim)
}

func (r *requests) snapshot() ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return json.Marshal(r.clients)
}

func (r *requests) restore(b []byte) error {
	clients := make(map[sheepdog.Incarnation]*client)
	if err := json.Unmarshal(b, &clients); err != nil {
		return fmt.Errorf("requests in snapshot: %w", err)
	}
	for id, c := range clients {
		if c == nil {
			return fmt.Errorf("requests in snapshot: client %v is empty", id)
		}
		if c.Answers == nil {
			c.Answers = make(map[uint64]outcome)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients = clients
	return nil
}
