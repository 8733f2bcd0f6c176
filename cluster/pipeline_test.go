package cluster

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// Bug: a leader that was deposed in the answer to one pipelined request waited
// for ever to send the next: nobody read answers any more. Its heartbeats went on
// for the life of the process.
func TestReplicationIsNotPipelined(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		l, f := w.leader(), w.follower()
		cons := l.consensus.Load()
		_, err := cons.transport.AppendEntriesPipeline(raft.ServerID(f.self.ID.String()), raftAddress(f.self.ID, f.self.Addr))
		if !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
			t.Errorf("a pipeline can be had: %v", err)
		}
	})
}
