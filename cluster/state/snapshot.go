package state

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"

	"sheepdog"
)

// A snapshot, version 2:
//
//	magic    "SDCS", 4 bytes
//	version  1 byte
//	header   uvarint length, then JSON (type header)
//	tables   one per policy of the header, in its order
//	crc      CRC-32C of everything before, 4 bytes little endian
//
// A table has one entry per partition: the uvarint number of a row. Rows are
// numbered as they first occur; the next free number introduces a new row, which
// follows at once:
//
//	state     1 byte
//	since     uvarint
//	lost      uvarint
//	acting    uvarint count, then uvarint positions in header.Nodes
//	target    the same
//	restarted the same
//	lives     per acting node the uvarint position in header.Lives
const (
	snapshotMagic   = "SDCS"
	snapshotVersion = 2
	// maxSnapshot bounds what Restore looks at, in bytes.
	maxSnapshot = 1 << 30
)

// header is the small part of a snapshot.
type header struct {
	Cluster    sheepdog.ClusterID `json:"cluster"`
	Generation uint64             `json:"generation"`
	Epoch      sheepdog.Epoch     `json:"epoch"`
	Revision   sheepdog.Revision  `json:"revision"`
	Config     sheepdog.Config    `json:"config"`
	// Pool has every member of now and of the history once; lists of members are
	// positions in it.
	Pool     []sheepdog.Member `json:"pool"`
	Members  []int             `json:"members"`
	Weights  []Weight          `json:"weights,omitempty"`
	History  []pooledEpoch     `json:"history"`
	Policies []sheepdog.Policy `json:"policies"`
	// Nodes has every node that a row names.
	Nodes []sheepdog.NodeID `json:"nodes"`
	// Lives has every store life that a row names.
	Lives []sheepdog.StoreLife `json:"lives"`
}

type pooledEpoch struct {
	Epoch   sheepdog.Epoch `json:"epoch"`
	Time    time.Time      `json:"time"`
	Members []int          `json:"members"`
}

// Snapshot is the whole state in bytes. Equal states give equal bytes.
func (s *State) Snapshot() ([]byte, error) {
	w := newSnapshotWriter()
	tables := w.tables(s.tables)
	head := header{
		Cluster:    s.cluster,
		Generation: s.generation,
		Epoch:      s.epoch,
		Revision:   s.revision,
		Config:     s.config,
		Members:    w.pooled(s.members),
		Weights:    s.weights,
	}
	if !s.Formatted() {
		// The policy of an unformatted cluster is no valid text.
		head.Config.Policy = sheepdog.Policy{Copies: 1}
	}
	for _, e := range s.history {
		head.History = append(head.History, pooledEpoch{Epoch: e.Epoch, Time: e.Time, Members: w.pooled(e.Members)})
	}
	for _, t := range s.tables {
		head.Policies = append(head.Policies, t.policy)
	}
	head.Pool, head.Nodes, head.Lives = w.pool, w.nodes, w.lives
	text, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("snapshot of revision %d: %w", s.revision, err)
	}
	out := append([]byte(snapshotMagic), snapshotVersion)
	out = binary.AppendUvarint(out, uint64(len(text)))
	out = append(out, text...)
	out = append(out, tables...)
	return binary.LittleEndian.AppendUint32(out, checksum(out)), nil
}

// snapshotWriter numbers members, nodes and rows as they first occur.
type snapshotWriter struct {
	pool    []sheepdog.Member
	members map[sheepdog.Member]int
	nodes   []sheepdog.NodeID
	numbers map[sheepdog.NodeID]int
	lives   []sheepdog.StoreLife
	lived   map[sheepdog.StoreLife]int
}

func newSnapshotWriter() *snapshotWriter {
	return &snapshotWriter{members: make(map[sheepdog.Member]int), numbers: make(map[sheepdog.NodeID]int),
		lived: make(map[sheepdog.StoreLife]int)}
}

func (w *snapshotWriter) pooled(members []sheepdog.Member) []int {
	out := make([]int, len(members))
	for i, m := range members {
		out[i] = position(&w.pool, w.members, m)
	}
	return out
}

func (w *snapshotWriter) tables(tables []*table) []byte {
	var out []byte
	for _, t := range tables {
		out = w.table(out, t)
	}
	return out
}

func (w *snapshotWriter) table(out []byte, t *table) []byte {
	var (
		byRow   = make(map[*row]uint64)
		byBytes = make(map[string]uint64) // equal rows that are not one in memory
		scratch []byte
	)
	for _, r := range t.rows {
		n, ok := byRow[r]
		if !ok {
			scratch = w.row(scratch[:0], r)
			if n, ok = byBytes[string(scratch)]; !ok {
				n = uint64(len(byBytes))
				byBytes[string(scratch)] = n
			}
			byRow[r] = n
		}
		out = binary.AppendUvarint(out, n)
		if !ok {
			out = append(out, scratch...)
		}
	}
	return out
}

func (w *snapshotWriter) row(out []byte, r *row) []byte {
	out = append(out, byte(r.State))
	out = binary.AppendUvarint(out, uint64(r.Since))
	out = binary.AppendUvarint(out, uint64(r.Lost))
	out = w.list(out, r.Acting)
	out = w.list(out, r.Target)
	out = w.list(out, r.Restarted)
	for _, life := range r.Lives {
		out = binary.AppendUvarint(out, uint64(position(&w.lives, w.lived, life)))
	}
	return out
}

func (w *snapshotWriter) list(out []byte, nodes []sheepdog.NodeID) []byte {
	out = binary.AppendUvarint(out, uint64(len(nodes)))
	for _, id := range nodes {
		out = binary.AppendUvarint(out, uint64(position(&w.nodes, w.numbers, id)))
	}
	return out
}

// position is where v is in list, to which it is added if it is new.
func position[T comparable](list *[]T, known map[T]int, v T) int {
	n, ok := known[v]
	if !ok {
		n = len(*list)
		*list = append(*list, v)
		known[v] = n
	}
	return n
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
