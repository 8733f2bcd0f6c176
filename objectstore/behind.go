package objectstore

import "context"

const (
	// behindBlocks is about how much of the log stays in the host's memory alone, in
	// blocks. What was appended before is on its way to the disk, so that a flush, and
	// a snapshot, which waits for one, finds little to write whenever it comes.
	behindBlocks = 64
	// behindRuns is how many runs of large data may wait to be begun; what comes while
	// there are more is left to the next sync.
	behindRuns = 64
)

// stretch is a range of a file in bytes.
type stretch struct {
	f      file
	off, n int64
}

// eagerFile is a file that the host can be asked to bring to the disk early.
type eagerFile interface {
	// beginWrite has the host begin to write a range, and waits only while the disk
	// takes no more. Nothing is durable by that; what fails is told by the next Sync.
	beginWrite(off, n int64)
}

// writeBehind has what was appended to the log, and large data, written, until the
// store closes. It does one stretch after the other, so that a disk which cannot
// keep up gets no more of them but longer ones, or fewer.
func (d *Disk) writeBehind(ctx context.Context) {
	defer d.done.Done()
	for {
		var s stretch
		select {
		case <-ctx.Done():
			return
		case s = <-d.journal.behind:
		case s = <-d.volumes.behind:
		}
		if f, ok := s.f.(eagerFile); ok {
			f.beginWrite(s.off, s.n)
		}
	}
}

// push hands over what was appended since the last time, once it is enough and the
// stretch before it was taken. from is where the latest record begins. Commit role.
func (j *journal) push(from uint32) {
	if !j.active.dirty.Swap(true) {
		j.begun = from // a sync has taken what was before
	}
	if j.at-j.begun < behindBlocks {
		return
	}
	select {
	case j.behind <- stretch{j.active.f, int64(j.begun) * blockSize, int64(j.at-j.begun) * blockSize}:
		j.begun = j.at
	default:
	}
}

// push hands over large data that were written to a volume.
func (s *volumes) push(v *volume, runs []run) {
	for _, r := range runs {
		f, off, err := v.file(r.at.block())
		if err != nil {
			return // the disk has just been unplugged
		}
		select {
		case s.behind <- stretch{f.f, off, int64(r.n) * blockSize}:
		default:
		}
	}
}
