package vdi

import "sheepdog"

// maxPrompt bounds what TryReadAt reads, in bytes: it is read on the goroutine of
// a frontend's connection.
const maxPrompt = 64 << 10

// TryReadAt fills p from off and returns true if that waits for nothing: whole
// blocks of one object of a VDI that this node coordinates, which no write in
// flight overlaps, and which this node's replica has at hand. Else, and where
// ReadAt would fail, it returns false, and p holds anything.
func (v *Volume) TryReadAt(p []byte, off uint64) bool {
	n := uint64(len(p))
	if v.layer != 0 || v.claimIs(claimLost) || n == 0 || n > maxPrompt || (off|n)%sheepdog.BlockSize != 0 {
		return false
	}
	c := v.family.Load().local()
	if c == nil || v.claimPassed(c) {
		return false
	}
	size := uint64(1) << c.shift
	if off&(size-1)+n > size {
		return false
	}
	return c.tryRead(piece{index: sheepdog.Index(off >> c.shift), in: off & (size - 1), n: n}, p) && v.prompt(n)
}

// tryRead is read in one attempt that waits for nothing, with the same checks
// before and after. (rules 5, 6)
func (c *coordinator) tryRead(p piece, buf []byte) bool {
	var h hold
	c.mu.Lock()
	ok := c.ranges.tryAcquire(&h, p.span(c.shift), false)
	c.mu.Unlock()
	if !ok {
		return false
	}
	defer c.unlock(&h)
	if !c.serves() {
		return false
	}
	t := c.top.Load()
	if !t.has(p.index) {
		if baseOf(c.m.opt.Directory, t.layer) != 0 {
			return false
		}
		clear(buf)
		return c.serves()
	}
	start, count := p.blocks()
	states := getStates(int(count))
	defer putStates(states)
	req := sheepdog.ReadRequest{Fence: sheepdog.Fence{Token: c.scope.Token}, Policy: c.scope.Policy,
		Object: sheepdog.ObjectID{Family: c.scope.Family, Index: p.index}, Layer: t.layer,
		Start: start, Count: count, Buf: buf, States: states}
	if !c.m.opt.Objects.TryRead(&req) {
		return false
	}
	// As in readBlocks, the base is looked up after the read.
	if anyAbsent(states) && baseOf(c.m.opt.Directory, t.layer) != 0 {
		return false
	}
	return c.serves()
}

// serves reports whether the coordinator may answer just now.
func (c *coordinator) serves() bool { return c.err() == nil && c.m.opt.Cluster.LeaseValid() }
