package state

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"sheepdog"
)

// Restore is the state that Snapshot wrote. The error wraps ErrVersion for a
// version of the future, sheepdog.ErrChecksum for damaged bytes and
// sheepdog.ErrInvalid for a content that no state has.
func Restore(b []byte) (*State, error) {
	s, err := restore(b)
	if err != nil {
		return nil, fmt.Errorf("restore cluster state: %w", err)
	}
	return s, nil
}

func restore(b []byte) (*State, error) {
	body, err := unwrap(b)
	if err != nil {
		return nil, err
	}
	r := &snapshotReader{rest: body}
	head, err := r.header()
	if err != nil {
		return nil, err
	}
	s, err := head.state()
	if err != nil {
		return nil, err
	}
	for _, policy := range head.Policies {
		t, err := r.table(policy)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", policy, err)
		}
		s.tables = append(s.tables, t)
	}
	if len(r.rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the last table", sheepdog.ErrInvalid, len(r.rest))
	}
	return s, s.checkTables()
}

// unwrap checks magic, version and checksum and returns what is between.
func unwrap(b []byte) ([]byte, error) {
	const frame = len(snapshotMagic) + 1 + 4
	switch {
	case len(b) < frame || string(b[:len(snapshotMagic)]) != snapshotMagic:
		return nil, fmt.Errorf("%w: not a snapshot", sheepdog.ErrInvalid)
	case len(b) > maxSnapshot:
		return nil, fmt.Errorf("%w: snapshot of %d bytes", sheepdog.ErrInvalid, len(b))
	case b[len(snapshotMagic)] != snapshotVersion:
		return nil, fmt.Errorf("snapshot version %d: %w", b[len(snapshotMagic)], ErrVersion)
	}
	end := len(b) - 4
	if binary.LittleEndian.Uint32(b[end:]) != checksum(b[:end]) {
		return nil, sheepdog.ErrChecksum
	}
	return b[len(snapshotMagic)+1 : end], nil
}

// state is the part of a state that the header describes.
func (h *header) state() (*State, error) {
	s := &State{
		cluster:    h.Cluster,
		generation: h.Generation,
		epoch:      h.Epoch,
		revision:   h.Revision,
		config:     h.Config,
	}
	if !s.Formatted() {
		if len(h.Policies)+len(h.Members)+len(h.History) > 0 {
			return nil, fmt.Errorf("%w: an unformatted cluster has members", sheepdog.ErrInvalid)
		}
		return New(), nil
	}
	if s.cluster.IsZero() || s.generation == 0 || s.revision == 0 {
		return nil, fmt.Errorf("%w: a formatted cluster lacks id, generation or revision", sheepdog.ErrInvalid)
	}
	if err := checkConfig(s.config); err != nil {
		return nil, err
	}
	s.config = normalised(s.config, s.config.Created)
	var err error
	if s.members, err = h.unpooled(h.Members); err != nil {
		return nil, err
	}
	if len(s.members) == 0 {
		return nil, fmt.Errorf("%w: no members", sheepdog.ErrInvalid)
	}
	if s.weights = h.Weights; len(s.weights) > maxWeights || !slices.IsSortedFunc(s.weights, func(a, b Weight) int { return cmp.Compare(a.ID, b.ID) }) {
		return nil, fmt.Errorf("%w: %d weights, or not in order", sheepdog.ErrInvalid, len(s.weights))
	}
	return s, h.restoreHistory(s)
}

func (h *header) restoreHistory(s *State) error {
	if len(h.History) == 0 || len(h.History) > MaxHistory {
		return fmt.Errorf("%w: history of %d epochs", sheepdog.ErrInvalid, len(h.History))
	}
	first := s.epoch - sheepdog.Epoch(len(h.History)) + 1
	for i, e := range h.History {
		if e.Epoch == 0 || e.Epoch != first+sheepdog.Epoch(i) {
			return fmt.Errorf("%w: history has epoch %d where %d is due", sheepdog.ErrInvalid, e.Epoch, first+sheepdog.Epoch(i))
		}
		if err := checkTime(e.Time); err != nil {
			return err
		}
		members, err := h.unpooled(e.Members)
		if err != nil {
			return fmt.Errorf("epoch %d: %w", e.Epoch, err)
		}
		s.history = append(s.history, EpochRecord{Epoch: e.Epoch, Time: e.Time.UTC(), Members: members})
	}
	return nil
}

// unpooled is the list of members at those positions of the pool, which must
// come out ascending.
func (h *header) unpooled(positions []int) ([]sheepdog.Member, error) {
	if len(positions) > MaxMembers {
		return nil, fmt.Errorf("%w: %d members", sheepdog.ErrInvalid, len(positions))
	}
	out := make([]sheepdog.Member, len(positions))
	for i, n := range positions {
		if n < 0 || n >= len(h.Pool) {
			return nil, fmt.Errorf("%w: member %d of %d", sheepdog.ErrInvalid, n, len(h.Pool))
		}
		out[i] = h.Pool[n]
	}
	if !slices.IsSortedFunc(out, compareMembers) {
		return nil, fmt.Errorf("%w: members are not in order", sheepdog.ErrInvalid)
	}
	return out, checkMembers(out)
}

// checkTables refuses tables that do not fit the rest of the state.
func (s *State) checkTables() error {
	if !s.Formatted() {
		return nil
	}
	for i, t := range s.tables {
		if i > 0 && comparePolicies(s.tables[i-1].policy, t.policy) >= 0 {
			return fmt.Errorf("%w: tables are not in order", sheepdog.ErrInvalid)
		}
		for p, r := range t.rows {
			if r.Since == 0 || r.Since > s.revision {
				return fmt.Errorf("%w: table %s: partition %d is of revision %d, the state of %d", sheepdog.ErrInvalid, t.policy, p, r.Since, s.revision)
			}
		}
	}
	if _, ok := s.table(s.config.Policy); !ok {
		return fmt.Errorf("%w: no table for the default policy %s", sheepdog.ErrInvalid, s.config.Policy)
	}
	return nil
}

// snapshotReader reads the parts of a snapshot from untrusted bytes.
type snapshotReader struct {
	rest  []byte
	nodes []sheepdog.NodeID
	known []sheepdog.StoreLife
}

func (r *snapshotReader) header() (*header, error) {
	n, err := r.uvarint(uint64(len(r.rest)))
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if n > uint64(len(r.rest)) {
		return nil, fmt.Errorf("%w: header is cut off", sheepdog.ErrInvalid)
	}
	var h header
	if err := json.Unmarshal(r.rest[:n], &h); err != nil {
		return nil, fmt.Errorf("header: %w: %w", sheepdog.ErrInvalid, err)
	}
	r.rest = r.rest[n:]
	if len(h.Policies) > MaxTables {
		return nil, fmt.Errorf("%w: %d tables", sheepdog.ErrInvalid, len(h.Policies))
	}
	r.nodes, r.known = h.Nodes, h.Lives
	return &h, nil
}

func (r *snapshotReader) table(policy sheepdog.Policy) (*table, error) {
	var rows []*row
	t := &table{policy: policy, rows: make([]*row, sheepdog.Partitions)}
	for p := range t.rows {
		n, err := r.uvarint(uint64(len(rows)))
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p, err)
		}
		if n == uint64(len(rows)) {
			next, err := r.row()
			if err != nil {
				return nil, fmt.Errorf("partition %d: %w", p, err)
			}
			rows = append(rows, next)
		}
		t.rows[p] = rows[n]
	}
	return t, nil
}

func (r *snapshotReader) row() (*row, error) {
	state, err := r.uvarint(uint64(sheepdog.Unclean))
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	since, err := r.uvarint(1<<64 - 1)
	if err != nil {
		return nil, fmt.Errorf("since: %w", err)
	}
	lost, err := r.uvarint(since)
	if err != nil {
		return nil, fmt.Errorf("lost: %w", err)
	}
	out := &row{Placement: sheepdog.Placement{Since: sheepdog.Revision(since), State: sheepdog.PartitionState(state), Lost: sheepdog.Revision(lost)}}
	for _, list := range []*[]sheepdog.NodeID{&out.Acting, &out.Target, &out.Restarted} {
		if *list, err = r.list(); err != nil {
			return nil, err
		}
	}
	if out.Lives, err = r.lives(len(out.Acting)); err != nil {
		return nil, fmt.Errorf("lives: %w", err)
	}
	return out, out.check()
}

// lives reads n positions in the list of lives.
func (r *snapshotReader) lives(n int) ([]sheepdog.StoreLife, error) {
	out := make([]sheepdog.StoreLife, n)
	for i := range out {
		if len(r.known) == 0 {
			return nil, fmt.Errorf("%w: none is known", sheepdog.ErrInvalid)
		}
		at, err := r.uvarint(uint64(len(r.known)) - 1)
		if err != nil {
			return nil, err
		}
		out[i] = r.known[at]
	}
	return out, nil
}

// check refuses a row that no command makes.
func (r *row) check() error {
	if len(r.Acting) == 0 {
		return fmt.Errorf("%w: nobody acts", sheepdog.ErrInvalid)
	}
	if r.State == sheepdog.Clean && len(r.Restarted) > 0 {
		return fmt.Errorf("%w: clean, but acting nodes restarted", sheepdog.ErrInvalid)
	}
	for _, id := range r.Restarted {
		if !r.IsActing(id) {
			return fmt.Errorf("%w: restarted node %s does not act", sheepdog.ErrInvalid, id)
		}
	}
	return nil
}

func (r *snapshotReader) list() ([]sheepdog.NodeID, error) {
	n, err := r.uvarint(uint64(len(r.nodes)))
	if err != nil || n == 0 {
		return nil, err
	}
	out := make([]sheepdog.NodeID, 0, min(n, 64))
	for range n {
		i, err := r.uvarint(uint64(len(r.nodes)) - 1)
		if err != nil {
			return nil, err
		}
		if slices.Contains(out, r.nodes[i]) {
			return nil, fmt.Errorf("%w: node %s is listed twice", sheepdog.ErrInvalid, r.nodes[i])
		}
		out = append(out, r.nodes[i])
	}
	return out, nil
}

// uvarint reads a number of at most limit.
func (r *snapshotReader) uvarint(limit uint64) (uint64, error) {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		return 0, fmt.Errorf("%w: number is cut off", sheepdog.ErrInvalid)
	}
	if v > limit {
		return 0, fmt.Errorf("%w: number %d, at most %d is possible", sheepdog.ErrInvalid, v, limit)
	}
	r.rest = r.rest[n:]
	return v, nil
}
