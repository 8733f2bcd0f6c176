package objectstore

import (
	"fmt"
	"sync"

	"sheepdog"
)

// statEvery bounds what is written between two looks at the free space.
const statEvery = 64 << 20

// quota keeps a reserve of a file system free, so that the store can always
// move its log, commit metadata and delete.
type quota struct {
	fs      fileSystem
	dir     string
	reserve uint64 // bytes

	mu     sync.Mutex
	budget uint64 // bytes that may be written before the file system is asked again
}

// admit refuses n bytes if they would leave less than the reserve and what is
// held: bytes that were admitted and wait in the log. Spare bytes are ours
// already and count as free.
func (q *quota) admit(n, held, spare uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.budget >= n {
		q.budget -= n
		return nil
	}
	_, free, err := q.fs.Space(q.dir)
	if err != nil {
		return diskError("space of "+q.dir, err)
	}
	keep := q.reserve + held
	free += spare
	if free < keep+n {
		return fmt.Errorf("%s has %d bytes free and keeps %d for housekeeping: delete something or add space: %w",
			q.dir, free, keep, sheepdog.ErrNoSpace)
	}
	q.budget = min(statEvery, (free-keep-n)/2)
	return nil
}

// take is admit for n bytes that need no look at the file system; false says nothing.
func (q *quota) take(n uint64) bool {
	q.mu.Lock()
	ok := q.budget >= n
	if ok {
		q.budget -= n
	}
	q.mu.Unlock()
	return ok
}

// spent makes admit ask the file system again.
func (q *quota) spent() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.budget = 0
}
