package sheepdog

import (
	"slices"
	"time"
)

// Member is one node of a committed view.
type Member struct {
	ID          NodeID      `json:"id"`
	Incarnation Incarnation `json:"incarnation"`
	Addr        string      `json:"addr"` // host:port of API, peers, Raft and gossip
	Zone        Zone        `json:"zone"`
	VNodes      uint16      `json:"vnodes"` // weight; 0: a gateway without storage
	StoreLife   StoreLife   `json:"storeLife,omitempty"`
	// Incomplete: the store lost a disk and what was on it, in this life or before it
	// began.
	Incomplete bool `json:"incomplete,omitempty"`
}

// Config is what `dog cluster format` fixes and later commands change.
type Config struct {
	Created          time.Time `json:"created"`
	Policy           Policy    `json:"copies"`           // default for new VDIs
	MinCopies        uint8     `json:"minCopies"`        // 0: half of the copies, rounded up
	BlockSizeShift   uint8     `json:"blockSizeShift"`   // object size as a power of two
	SyncAlways       bool      `json:"syncAlways"`       // every write durable before it is acknowledged
	Strict           bool      `json:"strict"`           // writes need as many zones as copies
	Locking          bool      `json:"locking"`          // VDIs are exclusive to one gateway
	FixedVNodes      bool      `json:"fixedVNodes"`      // weights are set by hand
	RecycleVIDs      bool      `json:"recycleVIDs"`      // ids of deleted families are used again
	SkipFullDisks    bool      `json:"skipFullDisks"`    // recovery leaves full disks alone
	RecoveryDisabled bool      `json:"recoveryDisabled"` // `dog cluster recover disable`
}

// PartitionState says whether the acting replicas of a partition may serve.
type PartitionState uint8

const (
	// Clean: every acting replica holds every acknowledged write.
	Clean PartitionState = iota
	// Unclean: all acting replicas restarted; they hold every flushed write but
	// must be compared and made equal (docs/protocol.md rule 12) before any serves.
	Unclean
)

// Placement is who holds one partition. It is immutable and shared.
type Placement struct {
	// Acting replicas are complete: they serve reads, and every one must accept a
	// write before it is acknowledged. A node listed here that is no member of the
	// view is dead, but had the last copy: the partition waits for it.
	Acting []NodeID
	// Target is what the ring wants. Targets that do not act are being backfilled;
	// they too must accept every write, but do not count towards min-copies and
	// never serve reads.
	Target []NodeID
	// Since is the revision in which acting, target, state or the incarnation of
	// one of them last changed. A request of an older revision is stale.
	Since Revision
	State PartitionState
	// Lost is the revision in which the partition last began to serve again after
	// all its acting replicas had forgotten what they had not made durable; 0:
	// never. Writes acknowledged before and not flushed may be gone.
	Lost Revision
}

// IsActing reports whether id is an acting replica.
func (p *Placement) IsActing(id NodeID) bool { return slices.Contains(p.Acting, id) }

// IsWriter reports whether id must accept writes: acting or target.
func (p *Placement) IsWriter(id NodeID) bool {
	return slices.Contains(p.Acting, id) || slices.Contains(p.Target, id)
}

// Complete reports whether exactly the targets act.
func (p *Placement) Complete() bool {
	if len(p.Acting) != len(p.Target) || p.State != Clean {
		return false
	}
	for _, t := range p.Target {
		if !slices.Contains(p.Acting, t) {
			return false
		}
	}
	return true
}

// Table is the placement of all partitions for one policy, indexed by
// Partition. It has Partitions entries that point to shared placements.
type Table []*Placement

// View is one committed state of the cluster, immutable once published.
type View struct {
	Cluster  ClusterID
	Epoch    Epoch
	Revision Revision
	Config   Config
	Members  []Member // ascending by ID
	Tables   map[Policy]Table
}

// Member finds a member by id.
func (v *View) Member(id NodeID) (Member, bool) {
	i, ok := slices.BinarySearchFunc(v.Members, id, func(m Member, id NodeID) int {
		switch {
		case m.ID < id:
			return -1
		case m.ID > id:
			return 1
		}
		return 0
	})
	if !ok {
		return Member{}, false
	}
	return v.Members[i], true
}

// Placement is who holds partition p under the policy; false if the policy has
// no table yet.
func (v *View) Placement(policy Policy, p Partition) (*Placement, bool) {
	t, ok := v.Tables[policy]
	if !ok || int(p) >= len(t) {
		return nil, false
	}
	return t[p], true
}

// StorageZones counts the distinct zones of members that store.
func (v *View) StorageZones() int {
	seen := make(map[Zone]bool, len(v.Members))
	for _, m := range v.Members {
		if m.VNodes > 0 {
			seen[m.Zone] = true
		}
	}
	return len(seen)
}

// MinCopies is how many acting replicas a write needs under the policy: the
// configured number, but not more than there are copies, else half of the copies
// rounded up, of at most the zones with storage. With parity P it is one of the P+1: P losses stop no write.
func (v *View) MinCopies(policy Policy) int {
	copies := min(policy.Width(), v.StorageZones())
	want := (copies + 1) / 2
	if v.Config.MinCopies > 0 {
		want = min(int(v.Config.MinCopies), policy.Width())
	}
	if policy.Parity > 0 {
		want = min(int(v.Config.MinCopies), policy.Width())
	}
	if v.Config.Strict {
		want = policy.Width()
	}
	return max(want, 1)
}

// Serves reports whether a partition serves writes as far as its placement goes: it is
// clean and its acting replicas are all members. Whether they are enough is MinCopies.
func (v *View) Serves(p *Placement) bool {
	for _, id := range p.Acting {
		if _, ok := v.Member(id); !ok {
			return false
		}
	}
	return p.State == Clean
}

// ActingMembers lists the acting replicas that are members of the view, in
// placement order; missing counts those that are not.
func (v *View) ActingMembers(p *Placement) (live []Member, missing int) {
	for _, id := range p.Acting {
		if m, ok := v.Member(id); ok {
			live = append(live, m)
		} else {
			missing++
		}
	}
	return live, missing
}
