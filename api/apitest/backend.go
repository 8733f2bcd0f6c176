// Package apitest has an api.Backend in memory, for tests of the control API
// and of its clients. It follows the rules of names, snapshots and errors, but
// it is no block store: bytes are in one slice per VDI, and nothing is shared.
package apitest

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/api"
)

// Backend is an api.Backend in memory. Tests set its fields before they use it.
type Backend struct {
	Now      func() time.Time // of created VDIs; nil: the zero time
	NodeList []api.Node
	Capacity []api.NodeCapacity
	Behind   []api.NodeRecovery
	Info     api.Cluster
	NBD      api.NBDEndpoints
	Self     sheepdog.NodeID
	Sole     sheepdog.NodeID // has the only complete replicas of something
	// Events and Summary are what Check reports; CheckErr ends it.
	Events   []api.CheckEvent
	Summary  api.CheckSummary
	CheckErr error
	// Fail, if it returns an error, is the outcome of the method of that name.
	Fail func(method string) error
	// ReadLimit, if positive, makes ReadVDI fail after that many bytes.
	ReadLimit int
	Locked    []api.Lock
	Counted   api.Stats
	Exposed   string // metrics
	// Loss is what Force reports.
	Loss    *api.ForceReport
	Plugged []string // disks of every node besides the first

	mu     sync.Mutex
	vdis   []*disk
	stops  int // calls of Shutdown
	killed []sheepdog.NodeID
	checks []api.CheckRequest
	format []api.FormatRequest
	create []api.CreateRequest
	clones []api.CloneRequest
	kept   maintained
}

type disk struct {
	api.VDI
	data    []byte
	written bool // since its last snapshot
}

// New has a formatted cluster of nodes on 127.0.0.1, ports 7000 upwards.
func New(nodes int) *Backend {
	b := &Backend{Self: 1}
	members := []api.EpochMember{}
	for i := range nodes {
		n := api.Node{ID: sheepdog.NodeID(i + 1), Incarnation: sheepdog.Incarnation(100 + i), Addr: fmt.Sprintf("127.0.0.1:%d", 7000+i), Zone: sheepdog.Zone(i), VNodes: 128}
		b.NodeList = append(b.NodeList, n)
		members = append(members, api.EpochMember{Addr: n.Addr, VNodes: n.VNodes})
	}
	b.Info = api.Cluster{State: api.StateRunning, ID: sheepdog.ClusterID{1}, Epoch: 1, Revision: 1,
		Config:  sheepdog.Config{Policy: sheepdog.Policy{Copies: 3}, BlockSizeShift: sheepdog.DefaultObjectShift},
		History: []api.EpochRecord{{Epoch: 1, Members: members}}}
	return b
}

// begin locks b unless the method is to fail.
func (b *Backend) begin(method string) (unlock func(), err error) {
	if b.Fail != nil {
		if err := b.Fail(method); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	return b.mu.Unlock, nil
}

// Put adds a VDI as it is.
func (b *Backend) Put(v api.VDI, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.vdis = append(b.vdis, &disk{VDI: v, data: data})
}

// Data is what a VDI holds; nil if there is none.
func (b *Backend) Data(name string, snapshot api.Selector) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := b.find(name, snapshot); d != nil {
		return slices.Clone(d.data)
	}
	return nil
}

// Stops counts calls of Shutdown.
func (b *Backend) Stops() int { b.mu.Lock(); defer b.mu.Unlock(); return b.stops }

// Killed lists the nodes that KillNode was asked for.
func (b *Backend) Killed() []sheepdog.NodeID { b.mu.Lock(); defer b.mu.Unlock(); return b.killed }

// Checks, Formats, Creates and Clones list requests as they came.
func (b *Backend) Checks() []api.CheckRequest   { b.mu.Lock(); defer b.mu.Unlock(); return b.checks }
func (b *Backend) Formats() []api.FormatRequest { b.mu.Lock(); defer b.mu.Unlock(); return b.format }
func (b *Backend) Creates() []api.CreateRequest { b.mu.Lock(); defer b.mu.Unlock(); return b.create }
func (b *Backend) Clones() []api.CloneRequest   { b.mu.Lock(); defer b.mu.Unlock(); return b.clones }

func (b *Backend) Status(context.Context) (*api.Status, error) {
	unlock, err := b.begin("Status")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &api.Status{Software: "test", State: b.Info.State, NBD: b.NBD, Node: api.Node{ID: b.Self}, Epoch: b.Info.Epoch}, nil
}

func (b *Backend) Cluster(context.Context) (*api.Cluster, error) {
	unlock, err := b.begin("Cluster")
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := b.Info
	return &c, nil
}

func (b *Backend) Format(_ context.Context, req *api.FormatRequest) (*api.Cluster, error) {
	unlock, err := b.begin("Format")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(b.vdis) > 0 && !req.Discard {
		return nil, fmt.Errorf("format: the cluster has %d VDIs: %w", len(b.vdis), sheepdog.ErrBusy)
	}
	b.format = append(b.format, *req)
	b.vdis = nil
	b.Info.State = api.StateRunning
	b.Info.Config.Policy = req.Copies
	c := b.Info
	return &c, nil
}

func (b *Backend) Shutdown(context.Context) error {
	unlock, err := b.begin("Shutdown")
	if err != nil {
		return err
	}
	defer unlock()
	b.stops++
	return nil
}

func (b *Backend) SetRecovery(_ context.Context, enabled bool) error {
	unlock, err := b.begin("SetRecovery")
	if err != nil {
		return err
	}
	defer unlock()
	b.Info.Config.RecoveryDisabled = !enabled
	return nil
}

// Force refuses while the cluster runs, and else gives up the nodes of Lost.
func (b *Backend) Force(_ context.Context, req *api.ForceRequest) (*api.ForceReport, error) {
	unlock, err := b.begin("Force")
	if err != nil {
		return nil, err
	}
	defer unlock()
	switch b.Info.State {
	case api.StateUnformatted:
		return nil, sheepdog.ErrNotFormatted
	case api.StateWaiting:
	default:
		return nil, fmt.Errorf("the cluster is %s: %w", b.Info.State, sheepdog.ErrBusy)
	}
	var r api.ForceReport
	if b.Loss != nil {
		r = *b.Loss
	}
	if req.DryRun {
		return &r, nil
	}
	if !slices.EqualFunc(req.GiveUp, r.Lost, func(id sheepdog.NodeID, n api.Node) bool { return id == n.ID }) {
		return nil, fmt.Errorf("other nodes: %w", sheepdog.ErrConflict)
	}
	r.Done, b.Info.State = true, api.StateRunning
	return &r, nil
}

func (b *Backend) Check(_ context.Context, req *api.CheckRequest, report func(*api.CheckEvent) error) (*api.CheckSummary, error) {
	unlock, err := b.begin("Check")
	if err != nil {
		return nil, err
	}
	b.checks = append(b.checks, *req)
	unlock()
	for i := range b.Events {
		if err := report(&b.Events[i]); err != nil {
			return nil, err
		}
	}
	sum := b.Summary
	return &sum, b.CheckErr
}

func (b *Backend) Nodes(context.Context) ([]api.Node, error) {
	unlock, err := b.begin("Nodes")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return b.NodeList, nil
}

func (b *Backend) Capacities(context.Context) (*api.Capacities, error) {
	unlock, err := b.begin("Capacities")
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := &api.Capacities{Nodes: b.Capacity}
	for _, d := range b.vdis {
		if !d.Snapshot {
			out.VirtualBytes += d.SizeBytes
		}
	}
	return out, nil
}

func (b *Backend) KillNode(_ context.Context, ref api.NodeRef) error {
	unlock, err := b.begin("KillNode")
	if err != nil {
		return err
	}
	defer unlock()
	if ref.Self {
		ref.ID = b.Self
	}
	for _, n := range b.NodeList {
		if n.ID == b.Sole && n.ID == ref.ID && !ref.Force {
			return fmt.Errorf("node %s has the only complete replicas: %w", n.Addr, sheepdog.ErrBusy)
		}
		if n.ID == ref.ID {
			b.killed = append(b.killed, n.ID)
			return nil
		}
	}
	return fmt.Errorf("node %s: %w", ref.ID, sheepdog.ErrNotFound)
}

func (b *Backend) Recovery(context.Context) ([]api.NodeRecovery, error) {
	unlock, err := b.begin("Recovery")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return b.Behind, nil
}

// freeID is the first free id from the hash of the name upwards.
func (b *Backend) freeID(name string) api.VID {
	h := fnv.New64a()
	h.Write([]byte(name))
	id := api.VID(h.Sum64() & 0xffffff)
	for id == 0 || slices.ContainsFunc(slices.Concat(b.vdis, b.kept.trashed), func(d *disk) bool { return d.ID == id }) {
		id = (id + 1) & 0xffffff
	}
	return id
}
