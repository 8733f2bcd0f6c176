// Package register judges what clients of a shared disk saw. The disk is a set of
// registers, each a run of bytes that is only written as a whole and every time
// with a value that was never written before. From the times of calls and returns
// it decides, exactly and in O(n log n), whether each register was linearizable.
//
// Reads, writes and the clock are the caller's; see package workload.
package register

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Value names a write; 0 is what the register held before any.
type Value uint64

// Op is one call.
type Op struct {
	Register     int
	Client       int
	Write        bool
	Value        Value // written, or read
	Call, Return time.Duration
}

// Never is the Return of a write of which nobody knows whether it happened, or
// will happen later.
const Never = time.Duration(math.MaxInt64)

func (o Op) String() string {
	verb, ret := "reads", o.Return.String()
	if o.Write {
		verb = "writes"
	}
	if o.Return == Never {
		ret = "never"
	}
	return fmt.Sprintf("client %d %s %d in register %d, %v to %s", o.Client, verb, o.Value, o.Register, o.Call, ret)
}

// Check returns an error for each register whose history is not linearizable. An
// operation that failed without an answer must be left out if it is a read, and
// have Return Never if it is a write.
func Check(ops []Op) []error {
	byRegister := map[int][]Op{}
	for _, o := range ops {
		byRegister[o.Register] = append(byRegister[o.Register], o)
	}
	var bad []error
	for register, ops := range byRegister {
		if err := check(ops); err != nil {
			bad = append(bad, fmt.Errorf("register %d: %w", register, err))
		}
	}
	return bad
}

// A cluster is a write and the reads that returned its value. In any legal order
// they are neighbours, so that the register holds the value from the first to
// return to the last to be called, if those are in this order: a forward zone.
// If not, all of the cluster overlap each other, in the backward zone.
//
// Gibbons and Korach (Testing Shared Memories, 1997): the history is linearizable
// if and only if no two forward zones overlap, no backward zone lies within a
// forward one, and no read returns before its write is called. What happens at
// the same instant counts as concurrent.
type cluster struct {
	write       Op
	written     bool
	read        bool
	firstReturn Op
	lastCall    Op
}

func (c *cluster) forward() bool { return c.firstReturn.Return < c.lastCall.Call }

func (c *cluster) low() time.Duration  { return min(c.firstReturn.Return, c.lastCall.Call) }
func (c *cluster) high() time.Duration { return max(c.firstReturn.Return, c.lastCall.Call) }

func check(ops []Op) error {
	clusters, err := group(ops)
	if err != nil {
		return err
	}
	slices.SortFunc(clusters, func(a, b *cluster) int { return cmp.Compare(a.low(), b.low()) })
	var last *cluster // the forward zone that ends last so far
	for _, c := range clusters {
		if last != nil {
			if c.forward() && c.low() < last.high() {
				return fmt.Errorf("two values at once: {%v; %v} and {%v; %v}", last.firstReturn, last.lastCall, c.firstReturn, c.lastCall)
			}
			if !c.forward() && last.low() < c.low() && c.high() < last.high() {
				return fmt.Errorf("a value within another: {%v; %v} within {%v; %v}", c.firstReturn, c.lastCall, last.firstReturn, last.lastCall)
			}
		}
		if c.forward() && (last == nil || c.high() > last.high()) {
			last = c
		}
	}
	return nil
}

func group(ops []Op) ([]*cluster, error) {
	const before = time.Duration(math.MinInt64)
	zero := Op{Write: true, Client: -1, Call: before, Return: before}
	byValue := map[Value]*cluster{0: {write: zero, written: true, read: true, firstReturn: zero, lastCall: zero}}
	at := func(v Value) *cluster {
		c := byValue[v]
		if c == nil {
			c = &cluster{firstReturn: Op{Return: Never}, lastCall: Op{Call: before}}
			byValue[v] = c
		}
		return c
	}
	for _, o := range ops {
		c := at(o.Value)
		if o.Write {
			if c.written {
				return nil, fmt.Errorf("test error: value %d written twice", o.Value)
			}
			c.write, c.written = o, true
		} else {
			c.read = true
		}
		if c.firstReturn.Return == Never || o.Return < c.firstReturn.Return {
			c.firstReturn = o
		}
		if o.Call >= c.lastCall.Call {
			c.lastCall = o
		}
	}
	var out []*cluster
	for v, c := range byValue {
		switch {
		case !c.written:
			return nil, fmt.Errorf("nobody wrote %d: %v", v, c.firstReturn)
		case c.firstReturn.Return < c.write.Call:
			return nil, fmt.Errorf("read before it was written: %v; %v", c.firstReturn, c.write)
		case c.write.Return == Never && !c.read:
			continue // it may never have happened
		}
		out = append(out, c)
	}
	return out, nil
}
