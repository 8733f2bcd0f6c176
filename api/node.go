package api

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"sheepdog"
)

// Node is one sheep process.
type Node struct {
	ID          sheepdog.NodeID      `json:"id"`
	Incarnation sheepdog.Incarnation `json:"incarnation"`
	Addr        string               `json:"addr"` // host:port
	Zone        sheepdog.Zone        `json:"zone"`
	VNodes      uint16               `json:"vnodes"` // 0: a gateway without storage
}

// NodeList is the answer of GET /v1/nodes, ordered by address, then port.
type NodeList struct {
	Version int    `json:"version"`
	Nodes   []Node `json:"nodes"`
}

// NodeRef names a node for KillNode: the one with that id, or, with Self, the
// one that answers.
type NodeRef struct {
	ID   sheepdog.NodeID
	Self bool
	// Force has it leave also with the only complete replicas of data, which then wait
	// until it is back.
	Force bool
}

// Capacities is the space of all nodes.
type Capacities struct {
	Version int            `json:"version"`
	Nodes   []NodeCapacity `json:"nodes"` // ordered by address, then port
	// VirtualBytes is the sum of the sizes of the working VDIs.
	VirtualBytes uint64 `json:"virtualBytes"`
}

// NodeCapacity is the space of one node's stores: what its objects use and what
// is free to them. A gateway has none.
type NodeCapacity struct {
	Node
	UsedBytes uint64 `json:"usedBytes"`
	FreeBytes uint64 `json:"freeBytes"`
	Error     string `json:"error,omitempty"` // why the node did not answer
}

// NodeRecovery is the progress of one recovering node.
type NodeRecovery struct {
	Node
	FinishedObjects uint64 `json:"finishedObjects"`
	TotalObjects    uint64 `json:"totalObjects"` // 0 while not yet counted
	MovedBytes      uint64 `json:"movedBytes"`   // fetched from other nodes so far
	// Partitions that the node still has to complete, of those since it began, and
	// those among them that wait for replicas which are not here.
	PartitionsLeft    int `json:"partitionsLeft"`
	TotalPartitions   int `json:"totalPartitions"`
	WaitingPartitions int `json:"waitingPartitions"`
	// Seconds since it began, and what it will probably still take; none: not known.
	Seconds     float64  `json:"seconds"`
	SecondsLeft *float64 `json:"secondsLeft,omitempty"`
}

// RecoveryList is the answer of GET /v1/recovery: only nodes that are not
// complete, ordered by address, then port.
type RecoveryList struct {
	Version int            `json:"version"`
	Nodes   []NodeRecovery `json:"nodes"`
}

// CompareAddr orders host:port addresses by address, then port, both as
// numbers; what is not an IP address comes last.
func CompareAddr(a, b string) int {
	ha, pa := splitAddr(a)
	hb, pb := splitAddr(b)
	ia, errA := netip.ParseAddr(ha)
	ib, errB := netip.ParseAddr(hb)
	switch {
	case errA == nil && errB == nil:
		return cmp.Or(ia.Compare(ib), cmp.Compare(pa, pb))
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return cmp.Or(cmp.Compare(ha, hb), cmp.Compare(pa, pb))
}

func splitAddr(s string) (host string, port int) {
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		return s, 0
	}
	port, err = strconv.Atoi(p)
	if err != nil {
		return s, 0
	}
	return h, port
}

// sortByAddr puts a list into the order in which users number nodes.
func sortByAddr[T any](list []T, addr func(*T) string) {
	slices.SortStableFunc(list, func(a, b T) int { return CompareAddr(addr(&a), addr(&b)) })
}
