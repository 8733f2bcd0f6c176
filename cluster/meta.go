package cluster

import (
	"encoding/binary"
	"fmt"
	"slices"

	"sheepdog"
)

// GossipState is what gossip believes of a node.
type GossipState uint8

const (
	GossipAlive GossipState = iota
	GossipDead
)

// GossipMember is one process life as gossip knows it: a hint, not a decision.
type GossipMember struct {
	sheepdog.Member
	Cluster sheepdog.ClusterID // zero: not formatted
	// Former are the newest ids that the cluster had before it was founded anew.
	Former formerIDs
	Hints  Hints
	State  GossipState
}

// formerIDs are the ids that a cluster had before; those not needed are zero.
type formerIDs [3]sheepdog.ClusterID

func (f formerIDs) has(id sheepdog.ClusterID) bool {
	return !id.IsZero() && slices.Contains(f[:], id)
}

// after is the list once id is a former one too.
func (f formerIDs) after(id sheepdog.ClusterID) formerIDs {
	if id.IsZero() || f.has(id) {
		return f
	}
	return formerIDs{id, f[0], f[1]}
}

func (f formerIDs) encode() (b []byte) {
	for _, id := range f {
		b = append(b, id[:]...)
	}
	return b
}

// decodeFormer reads as many as there are.
func decodeFormer(b []byte) (f formerIDs) {
	for i := range f {
		if len(b) < 16 {
			break
		}
		f[i], b = sheepdog.ClusterID(b[:16]), b[16:]
	}
	return f
}

const (
	metaVersion = 1
	maxAddr     = 255
	maxVersion  = 32
	metaFixed   = 1 + 8 + 8 + 16 + 4 + 2 + 8 + 8
	metaHealth  = 1 + 4 + 1
)

// encodeMeta is the metadata that gossip carries for a node, big-endian:
//
//	version=1 | id 8 | incarnation 8 | cluster 16 | zone 4 | vnodes 2 |
//	capacity 8 | used 8 | len 1, address | len 1, software version |
//	space 1 | waiting writes 4 | failed disks 1 |
//	count 1, former cluster ids of 16 each
//
// Bytes that follow belong to later software and are ignored.
func encodeMeta(m GossipMember) []byte {
	if len(m.Hints.Version) > maxVersion {
		m.Hints.Version = m.Hints.Version[:maxVersion]
	}
	b := make([]byte, 0, metaFixed+2+len(m.Addr)+len(m.Hints.Version))
	b = append(b, metaVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(m.ID))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Incarnation))
	b = append(b, m.Cluster[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(m.Zone))
	b = binary.BigEndian.AppendUint16(b, m.VNodes)
	b = binary.BigEndian.AppendUint64(b, m.Hints.Capacity)
	b = binary.BigEndian.AppendUint64(b, m.Hints.Used)
	b = append(b, byte(len(m.Addr)))
	b = append(b, m.Addr...)
	b = append(b, byte(len(m.Hints.Version)))
	b = append(b, m.Hints.Version...)
	b = append(b, byte(m.Hints.Space))
	b = binary.BigEndian.AppendUint32(b, m.Hints.Waiting)
	b = append(b, m.Hints.BadDisks)
	n := 0
	for n < len(m.Former) && !m.Former[n].IsZero() {
		n++
	}
	b = append(b, byte(n))
	return append(b, m.Former.encode()[:16*n]...)
}

func decodeMeta(b []byte) (GossipMember, error) {
	var m GossipMember
	if len(b) < metaFixed || b[0] != metaVersion {
		return m, fmt.Errorf("gossip metadata: %d bytes of an unknown format; is this a sheep of another version?", len(b))
	}
	m.ID = sheepdog.NodeID(binary.BigEndian.Uint64(b[1:]))
	m.Incarnation = sheepdog.Incarnation(binary.BigEndian.Uint64(b[9:]))
	copy(m.Cluster[:], b[17:])
	m.Zone = sheepdog.Zone(binary.BigEndian.Uint32(b[33:]))
	m.VNodes = binary.BigEndian.Uint16(b[37:])
	m.Hints.Capacity = binary.BigEndian.Uint64(b[39:])
	m.Hints.Used = binary.BigEndian.Uint64(b[47:])
	rest := b[metaFixed:]
	var ok bool
	if m.Addr, rest, ok = cutString(rest); !ok {
		return m, fmt.Errorf("gossip metadata: address is cut short")
	}
	if m.Hints.Version, rest, ok = cutString(rest); !ok || len(m.Hints.Version) > maxVersion {
		return m, fmt.Errorf("gossip metadata: bad software version")
	}
	if m.ID == 0 || m.Incarnation == 0 || m.Addr == "" {
		return m, fmt.Errorf("gossip metadata: no node id, incarnation or address")
	}
	if len(rest) < metaHealth {
		return m, fmt.Errorf("gossip metadata: health is cut short")
	}
	m.Hints.Space, m.Hints.Waiting, m.Hints.BadDisks = Space(rest[0]), binary.BigEndian.Uint32(rest[1:]), rest[5]
	rest = rest[metaHealth:]
	if len(rest) == 0 || len(rest)-1 < 16*int(rest[0]) {
		return m, fmt.Errorf("gossip metadata: former cluster ids are cut short")
	}
	m.Former = decodeFormer(rest[1 : 1+16*int(rest[0])])
	for _, id := range m.Former[:min(int(rest[0]), len(m.Former))] {
		if id.IsZero() {
			return m, fmt.Errorf("gossip metadata: a former cluster id is zero")
		}
	}
	return m, nil
}

func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return "", nil, false
	}
	n := int(b[0])
	return string(b[1 : 1+n]), b[1+n:], true
}
