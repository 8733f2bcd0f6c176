package cluster

import (
	"encoding/binary"
	"fmt"

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
	Hints   Hints
	State   GossipState
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
//	space 1 | waiting writes 4 | failed disks 1
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
	return append(b, m.Hints.BadDisks)
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
	return m, nil
}

func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return "", nil, false
	}
	n := int(b[0])
	return string(b[1 : 1+n]), b[1+n:], true
}
