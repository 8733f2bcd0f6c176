package objectstore

import (
	"fmt"
	"slices"
	"sync"

	"sheepdog"
)

// task is one entry on its way into the log and the map.
type task struct {
	e    entry
	p    *pile
	data []byte // of an inline entry
	err  *error // where the outcome goes
	// What crcs and runs of an entry with one block point to.
	sum [1]uint32
	run [1]run
}

// dataBlocks is how much of the log the data take.
func (t *task) dataBlocks() uint32 { return uint32(len(t.data) / blockSize) }

// call is what one caller wants committed, in order.
type call struct {
	tasks      []task
	next       int  // tasks before it are committed
	structural bool // drops and merges
	done       bool
	wake       chan bool // true: take the commit role; false: done
}

// committer hands the commit role around. A caller that finds it free takes it,
// works until its own call is done, and passes it to the first one waiting; a
// lone writer never meets another goroutine.
type committer struct {
	mu    sync.Mutex
	queue []*call
	busy  bool

	// Owned by the holder of the role.
	group    []*task
	extents  bool // some of group have their data in extents
	finished []*call
}

// maxGroupBlocks bounds a log record. The largest single entry takes less.
const maxGroupBlocks = 256

var callPool = sync.Pool{New: func() any { return &call{wake: make(chan bool, 1)} }}

// newCall is a call with room for so many tasks.
func newCall(tasks int) *call {
	c := callPool.Get().(*call)
	c.tasks = slices.Grow(c.tasks, tasks)
	return c
}

// add adds a task, without moving those that are there; takeBack removes the latest.
func (c *call) add() *task {
	c.tasks = c.tasks[:len(c.tasks)+1]
	return &c.tasks[len(c.tasks)-1]
}

func (c *call) takeBack() {
	c.tasks[len(c.tasks)-1] = task{}
	c.tasks = c.tasks[:len(c.tasks)-1]
}

func (c *call) release() {
	clear(c.tasks)
	c.tasks, c.next, c.structural, c.done = c.tasks[:0], 0, false, false
	callPool.Put(c)
}

// commit runs a call and returns when it is done.
func (d *Disk) commit(c *call) {
	q := &d.committer
	alone := c.fits(min(d.journal.segLen-1, maxGroupBlocks))
	q.mu.Lock()
	if !q.busy && len(q.queue) == 0 && alone {
		q.busy = true
		q.mu.Unlock()
		d.commitAlone(c)
		q.mu.Lock()
	} else {
		q.queue = append(q.queue, c)
		if q.busy {
			q.mu.Unlock()
			if !<-c.wake {
				return
			}
			q.mu.Lock()
		}
		q.busy = true
		for !c.done {
			d.commitGroup()
		}
	}
	if len(q.queue) > 0 {
		q.queue[0].wake <- true
	} else {
		q.busy = false
	}
	q.mu.Unlock()
}

// fits reports whether the call is one record of at most so many blocks.
func (c *call) fits(limit uint32) bool {
	bytes, blocks := 0, uint32(0)
	for i := range c.tasks {
		t := &c.tasks[i]
		bytes, blocks = bytes+t.e.size(), blocks+t.dataBlocks()
	}
	return len(c.tasks) == 1 || headBlocksOf(bytes)+blocks <= limit
}

// commitAlone is commitGroup for a call that is the whole group. The caller has the
// commit role.
func (d *Disk) commitAlone(c *call) {
	q := &d.committer
	q.group, q.extents = q.group[:0], false
	for i := range c.tasks {
		q.group = append(q.group, &c.tasks[i])
		q.extents = q.extents || c.tasks[i].e.kind == entryExtent
	}
	if q.extents {
		q.group = slices.DeleteFunc(q.group, d.lostOnTheWay)
	}
	d.commitTasks(c.structural)
}

// commitGroup takes what the queue begins with as one record. The caller's call
// is the first of the queue, or was. The caller holds mu, which is given up
// meanwhile.
func (d *Disk) commitGroup() {
	q := &d.committer
	first, finished := q.take(d.journal.segLen - 1)
	q.mu.Unlock()
	if q.extents {
		q.group = slices.DeleteFunc(q.group, d.lostOnTheWay)
	}
	d.commitTasks(first.structural)
	q.mu.Lock()
	for _, c := range finished {
		c.done = true
		if c != first {
			c.wake <- false
		}
	}
}

// take moves tasks from the queue into the group, and returns the call that
// they begin with and those that are finished with it; these leave the queue. The
// caller holds mu.
func (q *committer) take(segment uint32) (first *call, finished []*call) {
	q.group, q.finished, q.extents = q.group[:0], q.finished[:0], false
	first = q.queue[0]
	room := groupRoom{limit: min(segment, maxGroupBlocks)}
	for i, c := range q.queue {
		if i > 0 && c.structural != first.structural || !q.takeCall(c, &room) {
			break
		}
		q.finished = append(q.finished, c)
	}
	q.queue = append(q.queue[:0], q.queue[len(q.finished):]...)
	return first, q.finished
}

// groupRoom is what still fits into a record.
type groupRoom struct {
	limit, blocks uint32
	bytes         int
}

// takeCall moves the rest of a call into the group; false if it did not fit.
func (q *committer) takeCall(c *call, room *groupRoom) bool {
	for ; c.next < len(c.tasks); c.next++ {
		t := &c.tasks[c.next]
		bytes, blocks := room.bytes+t.e.size(), room.blocks+t.dataBlocks()
		if len(q.group) > 0 && headBlocksOf(bytes)+blocks > room.limit {
			return false
		}
		room.bytes, room.blocks = bytes, blocks
		q.group = append(q.group, t)
		q.extents = q.extents || t.e.kind == entryExtent
	}
	return true
}

// lostOnTheWay fails a task whose data are on a disk that failed since: so
// nothing gets there once LoseDisk looks.
func (d *Disk) lostOnTheWay(t *task) bool {
	if t.e.kind != entryExtent {
		return false
	}
	for _, r := range t.e.runs {
		if v := d.volumes.find(r.at.disk()); v == nil || v.failed.Load() {
			*t.err = fmt.Errorf("disk %d failed: %w", r.at.disk(), sheepdog.ErrIO)
			d.volumes.free(t.e.runs)
			return true
		}
	}
	return false
}

func (d *Disk) commitTasks(structural bool) {
	q := &d.committer
	if len(q.group) == 0 {
		return
	}
	first, err := d.journal.append(q.group, structural)
	var out outcome
	for i, t := range q.group {
		if *t.err = err; err == nil {
			d.applyTask(t, first+lsn(i), &out)
		} else if t.e.kind == entryExtent && d.journal.failed() == nil {
			d.volumes.free(t.e.runs) // nothing of it reached the log
		}
	}
	if err == nil {
		d.journal.applied.Store(uint64(first) + uint64(len(q.group)) - 1)
		d.account(&out)
	}
	clear(q.group)
}

// applyTask makes an entry visible that is in the log. What else that does is added to
// out.
func (d *Disk) applyTask(t *task, at lsn, out *outcome) {
	out.dirtied = false
	t.p.mu.Lock()
	t.p.apply(&t.e, at, out)
	if out.dirtied && d.dirty.add(t.p) {
		d.cache.pinAgain(t.p)
	}
	t.p.mu.Unlock()
	if len(out.refused) > 0 {
		d.volumes.free(out.refused)
		out.refused = out.refused[:0]
	}
}

// account adds up what asks for a destage.
func (d *Disk) account(out *outcome) {
	bytes := d.dirtyBytes.Add(int64(out.dirtyChunks) * chunkBytes)
	freed := d.freedBlocks.Add(int64(out.freedBlocks))
	d.replaced.Add(int64(out.replaced))
	if bytes > d.maxDirtyBytes/2 || d.exceeds(freed, 0.5) {
		d.kickAll()
	}
}
