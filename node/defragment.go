package node

import (
	"time"

	"sheepdog/api"
	"sheepdog/recovery"
)

// defaultDefragmentRate is what is moved at most so that it lies in sequence, in bytes
// a second.
const defaultDefragmentRate = 32 << 20

// busyMeter makes a function that reports whether guests have been busy here since it was
// called last; one caller at a time.
func (s *stats) busyMeter() func() bool {
	last, since := s.load().Requests, time.Now()
	return func() bool {
		n, took := s.load().Requests, time.Since(since)
		rate := float64(n-last) / max(took, time.Millisecond).Seconds()
		last, since = n, since.Add(took)
		return rate >= recovery.BusyRate
	}
}

func (n *Node) defragmentDocument() api.Defragment {
	if n.store == nil {
		return api.Defragment{}
	}
	s := n.store.Status()
	return api.Defragment{RateBytes: uint64(max(n.cfg.DefragmentRate, 0)), MovedBytes: s.DefragmentedBytes, WaitingBytes: s.WaitingBytes}
}
