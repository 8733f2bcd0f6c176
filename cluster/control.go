package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sheepdog"
	"sheepdog/cluster/state"
)

// methodPrefix marks the control methods that HandleControl serves.
const methodPrefix = "cluster."

const (
	methodRegister = methodPrefix + "register" // leader: put me into the view
	methodLeave    = methodPrefix + "leave"    // leader: take me out of the view
	methodRenew    = methodPrefix + "renew"    // leader: extend my lease
	methodSuspect  = methodPrefix + "suspect"  // leader: somebody does not answer
	methodDemote   = methodPrefix + "demote"   // leader: I lost data, do not count on me
	methodPropose  = methodPrefix + "propose"  // leader: commit an entry
	methodIndex    = methodPrefix + "index"    // leader: what is committed now
	methodLeader   = methodPrefix + "leader"   // any: who leads
	methodTerm     = methodPrefix + "term"     // voter: have you promised a later term
	methodConfirm  = methodPrefix + "confirm"  // any: are you still this process
	methodProbe    = methodPrefix + "probe"    // any: does that node's port refuse you
	methodReserve  = methodPrefix + "reserve"  // unformatted: hold still for my format
	methodRelease  = methodPrefix + "release"  // unformatted: my format failed
	methodAdopt    = methodPrefix + "adopt"    // unformatted: you are formatted now
	methodStanding = methodPrefix + "standing" // any: what is your log
	methodPrepare  = methodPrefix + "prepare"  // any: leave Raft, the cluster is founded anew
	methodCancel   = methodPrefix + "cancel"   // prepared: it is not
	methodReform   = methodPrefix + "reform"   // prepared: found it with your log
	methodFollow   = methodPrefix + "follow"   // prepared: it is founded, join it
)

// maxControl bounds the body of a control request, in bytes.
const maxControl = maxEntry + 64

// message is the body of all control requests but propose; each uses what it
// needs.
type message struct {
	Cluster sheepdog.ClusterID `json:"cluster"`
	Ref     state.MemberRef    `json:"ref,omitzero"`    // the node it is about
	Member  sheepdog.Member    `json:"member,omitzero"` // the same with all it says of itself
	Addr    string             `json:"addr,omitempty"`
	Term    uint64             `json:"term,omitempty"`
	Patient bool               `json:"patient,omitempty"` // the renewal may wait for the next slot
	// Next is the id of a new foundation, Former are those that it had before.
	Next   sheepdog.ClusterID   `json:"next,omitzero"`
	Former []sheepdog.ClusterID `json:"former,omitempty"`
}

// reply is the body of answers that say more than yes.
type reply struct {
	Addr   string          `json:"addr,omitempty"`
	Index  uint64          `json:"index,omitempty"`
	Member sheepdog.Member `json:"member,omitzero"`
	// Membership of a lease: that of the leader's view which lists the node.
	Membership membership `json:"membership,omitempty"`
	// Standing is the answer to methodStanding.
	Standing *Standing `json:"standing,omitempty"`
	// Last is the answer to methodLeave: see Leave.
	Last state.PartitionList `json:"last,omitempty"`
}

// HandleControl serves the methods of this package that arrive over peer
// connections; false if the method is none of them.
func (c *Cluster) HandleControl(ctx context.Context, method string, body []byte) ([]byte, error, bool) {
	if !strings.HasPrefix(method, methodPrefix) {
		return nil, nil, false
	}
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return nil, err, true
	}
	defer leave()
	out, err := c.serve(ctx, method, body)
	return out, err, true
}

func (c *Cluster) serve(ctx context.Context, method string, body []byte) ([]byte, error) {
	if len(body) > maxControl {
		return nil, fmt.Errorf("%w: %s with %d bytes", sheepdog.ErrInvalid, method, len(body))
	}
	if method == methodPropose {
		return c.handlePropose(ctx, body)
	}
	handle := c.handler(method)
	if handle == nil {
		return nil, fmt.Errorf("%w: control method %q is not known to this version", sheepdog.ErrInvalid, method)
	}
	m, err := decodeMessage(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	if err := c.sameCluster(method, m.Cluster); err != nil {
		return nil, err
	}
	out, err := handle(ctx, m)
	if err != nil || out == nil {
		return nil, err
	}
	return json.Marshal(out)
}

func (c *Cluster) handler(method string) func(context.Context, message) (any, error) {
	switch method {
	case methodRegister:
		return c.handleRegister
	case methodLeave:
		return c.handleLeave
	case methodRenew:
		return c.handleRenew
	case methodSuspect:
		return c.handleSuspect
	case methodDemote:
		return c.handleDemote
	case methodIndex:
		return c.handleIndex
	case methodLeader:
		return c.handleLeader
	case methodTerm:
		return c.handleTerm
	case methodConfirm:
		return c.handleConfirm
	case methodProbe:
		return c.handleProbe
	case methodReserve:
		return c.handleReserve
	case methodRelease:
		return c.handleRelease
	case methodAdopt:
		return c.handleAdopt
	}
	return c.refoundHandler(method)
}

func decodeMessage(body []byte) (m message, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: %w", sheepdog.ErrInvalid, err)
	}
	if len(m.Addr) > maxAddr || len(m.Member.Addr) > maxAddr {
		return m, fmt.Errorf("%w: address is longer than %d bytes", sheepdog.ErrInvalid, maxAddr)
	}
	return m, nil
}

// sameCluster refuses messages of another cluster. A format speaks to nodes
// that have none yet.
func (c *Cluster) sameCluster(method string, id sheepdog.ClusterID) error {
	own := c.clusterID()
	switch method {
	case methodFollow:
		return nil // it looks itself
	case methodReserve, methodRelease, methodAdopt:
		if own.IsZero() || own == id {
			return nil
		}
	default:
		if own == id && !own.IsZero() {
			return nil
		}
		if own.IsZero() {
			return fmt.Errorf("%s: %w", method, sheepdog.ErrNotFormatted)
		}
	}
	c.opts.Logger.Warn("refused a request of another cluster", "method", method, "theirs", id, "ours", own)
	return fmt.Errorf("%s: %w: request of %v, this node of %v", method, sheepdog.ErrWrongCluster, id, own)
}

// call sends a request to a node, or serves it here if the address is our own.
func (c *Cluster) call(ctx context.Context, addr, method string, m message) (reply, error) {
	if m.Cluster.IsZero() {
		m.Cluster = c.clusterID()
	}
	body, err := json.Marshal(m)
	if err != nil {
		return reply{}, fmt.Errorf("encode %s: %w", method, err)
	}
	out, err := c.send(ctx, addr, method, body)
	if err != nil {
		return reply{}, err
	}
	var r reply
	if len(out) > 0 {
		if err := json.Unmarshal(out, &r); err != nil {
			return reply{}, fmt.Errorf("answer to %s: %w: %w", method, sheepdog.ErrInvalid, err)
		}
	}
	return r, nil
}

func (c *Cluster) send(ctx context.Context, addr, method string, body []byte) ([]byte, error) {
	if addr == c.opts.Self.Addr {
		return c.serve(ctx, method, body)
	}
	out, err := c.opts.Caller.Call(ctx, addr, method, body)
	if errors.Is(err, sheepdog.ErrWrongCluster) {
		c.opts.Logger.Warn("a node of another cluster answered", "addr", addr, "method", method, "err", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s at %s: %w", method, addr, err)
	}
	return out, nil
}

// askLeader sends a request to the leader, once.
func (c *Cluster) askLeader(ctx context.Context, method string, m message) (reply, error) {
	addr, err := c.findLeader(ctx)
	if err != nil {
		return reply{}, err
	}
	return c.call(ctx, addr, method, m)
}

func (c *Cluster) handleLeader(context.Context, message) (any, error) {
	addr, _ := c.Leader()
	if addr == "" {
		return nil, sheepdog.ErrNoQuorum
	}
	return reply{Addr: addr}, nil
}
