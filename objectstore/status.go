package objectstore

// Status is what a store has to do behind its writers, for operators.
type Status struct {
	// LogBytes are of segments of the log that hold what is not in its place yet, of
	// LogLimitBytes; BacklogBytes are of the data in them, those replaced since included.
	LogBytes, LogLimitBytes, BacklogBytes uint64
	// Level is how near the store is to holding writers back: it does a little from 0.7
	// on, and at 1 all of them wait for a destage.
	Level float64
	// RottenBlocks were read since the store was opened and failed their checksum,
	// UnreadBlocks could not be read. Both count every read.
	RottenBlocks, UnreadBlocks uint64
	// DefragmentedBytes were moved since then so that they lie in sequence. WaitingBytes are
	// of what is still to be looked at for that.
	DefragmentedBytes, WaitingBytes uint64
}

// Status looks at counters only.
func (d *Disk) Status() Status {
	j := &d.journal
	segment := uint64(j.segLen) * blockSize
	return Status{LogBytes: uint64(j.segments()) * segment, LogLimitBytes: uint64(j.maxSegs) * segment, BacklogBytes: j.shares.blocks() * blockSize,
		Level: d.level(), RottenBlocks: d.rotten.Load(), UnreadBlocks: d.unread.Load(),
		DefragmentedBytes: d.defragmented.Load() * blockSize, WaitingBytes: uint64(d.ragged.count()) * windowBlocks * blockSize}
}

// blocks counts what live segments hold.
func (s *shares) blocks() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total + s.open.n
}
