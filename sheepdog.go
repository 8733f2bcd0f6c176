// Package sheepdog holds the words of the system: identifiers, the immutable
// View that says who holds what, the messages between gateways and replicas,
// and the errors that cross package borders. It does no I/O and imports
// nothing of ours; every other package speaks in its terms. The glossary is in
// docs/architecture.md.
package sheepdog

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// BlockSize is the unit of presence, checksum and copy-on-write, in bytes.
const BlockSize = 4096

// Limits of the system. Sizes are in bytes.
const (
	MaxCopies           = 31
	MaxVDISize          = 16 << 50
	MaxNameLength       = 255
	MinBlockSizeShift   = 20 // objects of 1 MiB
	MaxBlockSizeShift   = 31 // objects of 2 GiB
	DefaultObjectShift  = 22 // objects of 4 MiB
	Partitions          = 1 << partitionBits
	DefaultVNodes       = 128
	DefaultPort         = 7000
	DefaultNBDPort      = 10809
	MaxTransfer         = 32 << 20 // the largest single read or write, as NBD's recommended maximum
	ProtocolVersion     = 2        // of peer frames and gossip metadata
	ControlAPIVersion   = 1        // of the HTTP API
	DirectoryRawVersion = 1
)

// NodeID names a node for the life of its metadata directory. It is random and
// survives restarts.
type NodeID uint64

// Incarnation is one life of a node's process, new at every start. It never
// repeats for a node; it has no order.
type Incarnation uint64

// StoreLife names a time in which the store of a node forgot nothing that it had
// acknowledged: it outlives processes, and ends when the machine may have lost
// what was not flushed. It never repeats for a node; zero is unknown.
type StoreLife uint64

// ClusterID is made by `dog cluster format`. The zero value means unformatted.
type ClusterID [16]byte

// Epoch is the number of the committed membership, as operators see it: 1 at
// format, one more for every join, leave, disk or weight change.
type Epoch uint64

// Revision is the number of the committed view. It rises with every epoch and
// with every change of a partition table (promotion, cleaning), and is what
// docs/protocol.md means where it fences by the view. It never falls.
type Revision uint64

// Token is the fencing number of a coordinator, higher at every appointment.
type Token uint64

// FamilyID names a family of layers; never reused.
type FamilyID uint64

// LayerID names a layer; never reused. Zero means none.
type LayerID uint64

// VID is the number of 24 bits that users see as six hex digits.
type VID uint32

// Index is the position of an object in its VDI, in objects.
type Index uint32

// BlockNo is the position of a block in its object, in blocks.
type BlockNo uint32

// Partition is a hash slot of (family, index): the unit of placement.
type Partition uint16

// Zone is a failure domain.
type Zone uint32

// ObjectID names what placement places: one index of one family, with all the
// layers of it.
type ObjectID struct {
	Family FamilyID
	Index  Index
}

// Partition is where the object belongs: the top bits (16) of a 64-bit mix
// (SplitMix64 finaliser, Stafford variant 13) of family and index. It is an
// on-disk contract; golden vectors are in the tests.
func (o ObjectID) Partition() Partition {
	h := mix64(uint64(o.Family)*0x9e3779b97f4a7c15 + uint64(o.Index) + 0x2545f4914f6cdd1d)
	return Partition(h >> (64 - partitionBits))
}

func mix64(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (o ObjectID) String() string { return fmt.Sprintf("%x.%x", uint64(o.Family), uint32(o.Index)) }

// Stamp orders the writes of one block: first by token, then by sequence
// number. The zero stamp is older than every write.
type Stamp struct {
	Token Token
	Seq   uint64
}

// Less reports whether s is older than t.
func (s Stamp) Less(t Stamp) bool {
	return s.Token < t.Token || s.Token == t.Token && s.Seq < t.Seq
}

// Origin names a forwarded request so that a retry at another coordinator is
// applied once. Gateway is the incarnation of the forwarding gateway's process;
// zero means that the write was not forwarded.
type Origin struct {
	Gateway Incarnation
	Request uint64
}

// Succession is what a coordinator takes over from those before it.
type Succession struct {
	Origins []Origin // forwarded writes that were applied
	// Lost, if not nil, is why nobody knows which of them are in place: bytes of some that
	// had not been acknowledged cannot be read any more.
	Lost error
}

// Policy is a redundancy policy: Copies replicas, or (Parity > 0) Copies data
// and Parity parity strips. Data of the latter are first written as Parity+1
// replicas; strips are made of them later (docs/adr/0008).
type Policy struct {
	Copies uint8
	Parity uint8
}

// stripsFlag in Parity marks the policy of the layers that are stored as strips.
const stripsFlag = 0x80

// Strips is the policy of the coded layers of a policy with parity.
func (p Policy) Strips() Policy { return Policy{Copies: p.Copies, Parity: p.Parity | stripsFlag} }

// Guests is the policy as users know it: that of Strips is D:P.
func (p Policy) Guests() Policy { return Policy{Copies: p.Copies, Parity: p.Parity &^ stripsFlag} }

// IsStrips reports whether objects of this policy are stored as strips.
func (p Policy) IsStrips() bool { return p.Parity&stripsFlag != 0 }

// ParityStrips is the number of parity strips; 0 for copies.
func (p Policy) ParityStrips() int { return int(p.Parity &^ stripsFlag) }

// DataStrips is how many zones share the data of an object: one has all of it with copies.
func (p Policy) DataStrips() int {
	if p.Parity > 0 {
		return max(int(p.Copies), 1)
	}
	return 1
}

// String is `3`, `4:2`, or `4+2` for coded layers.
func (p Policy) String() string {
	switch {
	case p.IsStrips():
		return fmt.Sprintf("%d+%d", p.Copies, p.ParityStrips())
	case p.Parity > 0:
		return fmt.Sprintf("%d:%d", p.Copies, p.Parity)
	}
	return strconv.Itoa(int(p.Copies))
}

// Width is the number of nodes that hold an object of this policy: one for each
// replica or strip. Written data of D:P have P+1 replicas.
func (p Policy) Width() int {
	switch {
	case p.IsStrips():
		return p.Zones()
	case p.Parity > 0:
		return int(p.Parity) + 1
	}
	return int(p.Copies)
}

// Zones is the number of zones that a policy needs to be kept in full.
func (p Policy) Zones() int { return int(p.Copies) + p.ParityStrips() }

// MarshalText writes the policy as String does.
func (p Policy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what String writes.
func (p *Policy) UnmarshalText(b []byte) error {
	data, parity, coded := strings.Cut(string(b), ":")
	strips := false
	if !coded {
		data, parity, strips = strings.Cut(string(b), "+")
	}
	c, err := strconv.ParseUint(data, 10, 8)
	if err != nil || c < 1 || c > MaxCopies {
		return fmt.Errorf("redundancy policy %q: want 1 to %d copies, or D:P", b, MaxCopies)
	}
	*p = Policy{Copies: uint8(c)}
	if coded || strips {
		n, err := strconv.ParseUint(parity, 10, 8)
		if err != nil || n < 1 || n > 15 {
			return fmt.Errorf("redundancy policy %q: want 1 to 15 parity strips after the colon", b)
		}
		p.Parity = uint8(n)
	}
	if strips {
		*p = p.Strips()
	}
	return nil
}

func (id NodeID) String() string                   { return fmt.Sprintf("%016x", uint64(id)) }
func (i Incarnation) String() string               { return fmt.Sprintf("%016x", uint64(i)) }
func (v VID) String() string                       { return fmt.Sprintf("%x", uint32(v)) }
func (id ClusterID) String() string                { return hex.EncodeToString(id[:]) }
func (id ClusterID) IsZero() bool                  { return id == ClusterID{} }
func (id NodeID) MarshalText() ([]byte, error)     { return []byte(id.String()), nil }
func (i Incarnation) MarshalText() ([]byte, error) { return []byte(i.String()), nil }
func (id ClusterID) MarshalText() ([]byte, error)  { return []byte(id.String()), nil }

// UnmarshalText reads 16 hex digits.
func (id *NodeID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*id = NodeID(n)
	return err
}

// UnmarshalText reads 16 hex digits.
func (i *Incarnation) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	*i = Incarnation(n)
	return err
}

// UnmarshalText reads 32 hex digits.
func (id *ClusterID) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(id) {
		return fmt.Errorf("cluster id %q: want %d hex digits", b, 2*len(id))
	}
	_, err := hex.Decode(id[:], b)
	return err
}
