package world

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// cellSize is the unit of the ledger, in bytes: a sector. Every cell holds the
// value of the last write that touched it.
const cellSize = 512

// value names a write; zero stands for zeros, written or not.
type value uint64

// fillCell makes a cell that tells its value and its place, so that bytes of
// another place or of two writes are not taken for it.
func fillCell(p []byte, v value, cell int) {
	for i := 0; i < cellSize; i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(v))
		binary.LittleEndian.PutUint64(p[i+8:], uint64(cell)^uint64(v)<<20)
	}
}

// readCell finds the value of a cell.
func readCell(p []byte, cell int) (value, error) {
	v := binary.LittleEndian.Uint64(p)
	second := binary.LittleEndian.Uint64(p[8:])
	want := uint64(cell) ^ v<<20
	if v == 0 {
		want = 0
	}
	if second != want {
		return 0, fmt.Errorf("cell %d reads as value %d with mark %x, want %x", cell, v, second, want)
	}
	for i := 16; i < cellSize; i += 16 {
		if binary.LittleEndian.Uint64(p[i:]) != v || binary.LittleEndian.Uint64(p[i+8:]) != want {
			return 0, fmt.Errorf("cell %d is torn: value %d at its begin, %d at byte %d", cell, v, binary.LittleEndian.Uint64(p[i:]), i)
		}
	}
	return value(v), nil
}

// moment orders calls and returns: every one has its own.
type moment int64

const (
	before moment = -1            // of what was there when the history began
	never  moment = math.MaxInt64 // when a call of unknown outcome returned
)

// event is one read or write of one cell.
type event struct {
	v         value
	write     bool
	call, ret moment
	by        int32 // the client
	fua       bool  // a write that was to be durable when it returned
	hole      bool  // a read that was only told that there are zeros
}

func (e event) String() string {
	what, ret := "read", fmt.Sprint(e.ret)
	if e.write {
		what = "write"
	}
	if e.fua {
		what += " with FUA"
	}
	if e.ret == never {
		ret = "?"
	}
	if e.hole {
		return fmt.Sprintf("[%d,%s] client %d was told of a hole", e.call, ret, e.by)
	}
	return fmt.Sprintf("[%d,%s] client %d %s %d", e.call, ret, e.by, what, e.v)
}

// lifetime is a write and the reads that saw it.
type lifetime struct {
	v       value
	written bool
	call    moment // of the write
	minRet  moment // when it had taken effect at the latest
	maxCall moment // when it still was in effect at the earliest
	durable bool   // it was acknowledged with FUA
}

// after reports whether c certainly took effect after o: something of o was
// over before something of c began.
func (c *lifetime) after(o *lifetime) bool { return o.minRet < c.maxCall }

// lifetimes sorts events by value. initial are the values that the cell may have
// at the begin; where several are possible the first read of one decides.
func lifetimes(events []event, initial []value) (map[value]*lifetime, error) {
	out := make(map[value]*lifetime)
	for _, e := range events {
		c := out[e.v]
		if c == nil {
			c = &lifetime{v: e.v, minRet: never, maxCall: math.MinInt64}
			out[e.v] = c
		}
		if e.write {
			c.written, c.call = true, e.call
			c.durable = e.fua && e.ret != never
		}
		c.minRet, c.maxCall = min(c.minRet, e.ret), max(c.maxCall, e.call)
	}
	var first *lifetime
	for _, c := range out {
		if c.written {
			continue
		}
		if !slices.Contains(initial, c.v) {
			return nil, fmt.Errorf("value %d was read but never written here; %v could have been", c.v, initial)
		}
		if first != nil {
			return nil, fmt.Errorf("values %d and %d were both read as what was there at the begin", first.v, c.v)
		}
		first = c
		c.written, c.call, c.minRet, c.maxCall = true, before, before, max(c.maxCall, before)
	}
	return out, nil
}

// linear checks that the history of a register is linearizable. Without zeros
// written, all values are distinct, and it is if and only if no two zones of
// certain presence overlap, and no write with its reads lies within another's
// (Gibbons and Korach, Testing Shared Memories, 1997).
func linear(events []event, initial []value) error {
	if slices.ContainsFunc(events, func(e event) bool { return e.write && e.v == 0 }) {
		return search(events, initial)
	}
	all, err := lifetimes(events, initial)
	if err != nil {
		return err
	}
	for _, e := range events {
		if c := all[e.v]; !e.write && e.ret < c.call {
			return fmt.Errorf("value %d was read before it was written", e.v)
		}
	}
	var forward, backward []*lifetime
	for _, c := range all {
		switch {
		case c.minRet == never: // nobody saw it
		case c.minRet < c.maxCall:
			forward = append(forward, c)
		default:
			backward = append(backward, c)
		}
	}
	slices.SortFunc(forward, func(a, b *lifetime) int { return cmp.Compare(a.minRet, b.minRet) })
	for i := 1; i < len(forward); i++ {
		if a, b := forward[i-1], forward[i]; b.minRet < a.maxCall {
			return fmt.Errorf("values %d and %d alternate", a.v, b.v)
		}
	}
	for _, b := range backward {
		for _, f := range forward {
			if f.minRet < b.maxCall && b.minRet < f.maxCall {
				return fmt.Errorf("value %d, alive in [%d, %d], came and went while %d was there in [%d, %d]", b.v, b.maxCall, b.minRet, f.v, f.minRet, f.maxCall)
			}
		}
	}
	return nil
}

// cellModel is a register for porcupine.
type cellInput struct {
	write bool
	v     value
}

func cellModel(initial value) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return initial },
		Step: func(state, input, output any) (bool, any) {
			in := input.(cellInput)
			if in.write {
				return true, in.v
			}
			return output.(value) == state.(value), state
		},
	}
}

// searchLimit bounds one search, in real time.
const searchLimit = 20 * time.Second

// search looks for an order by trying, for any history.
func search(events []event, initial []value) error {
	var ops []porcupine.Operation
	for i, e := range events {
		if e.ret == never && !e.write {
			continue
		}
		ops = append(ops, porcupine.Operation{ClientId: i, Input: cellInput{e.write, e.v}, Output: e.v, Call: int64(e.call), Return: int64(e.ret)})
	}
	unknown := false
	for _, v := range initial {
		switch porcupine.CheckOperationsTimeout(cellModel(v), ops, searchLimit) {
		case porcupine.Ok:
			return nil
		case porcupine.Unknown:
			unknown = true
		}
	}
	if unknown {
		return nil // too many calls without an outcome to say
	}
	return fmt.Errorf("no order of the calls explains what was read; %v could have been there at the begin", initial)
}

// survivors lists what a cell may hold after a loss of power of all disks: all
// but what was certainly replaced by something that was there before the last
// complete flush began, or that was acknowledged with FUA.
func survivors(events []event, initial []value, flushed moment) []value {
	all, err := lifetimes(events, initial)
	if err != nil {
		return nil // the check of this history reports it
	}
	for _, v := range initial {
		if all[v] == nil {
			all[v] = &lifetime{v: v, minRet: before, maxCall: before}
		}
	}
	zeros := slices.ContainsFunc(events, func(e event) bool { return e.write && e.v == 0 })
	var out []value
	for _, c := range all {
		replaced := false
		for _, o := range all {
			// Zeros may have been written several times: nothing is certain of them.
			certain := !zeros || o.v != 0 && c.v != 0
			replaced = replaced || o != c && certain && (o.minRet < flushed || o.durable) && o.after(c)
		}
		if !replaced {
			out = append(out, c.v)
		}
	}
	slices.Sort(out)
	return out
}
