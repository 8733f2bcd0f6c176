package cluster

import (
	"context"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// gatherPerMember times the members is how often the leader of a wide cluster
// commits steps of recovery. What came in between is committed together and makes
// one view: each costs every node a look at it, and every node has steps to take.
const gatherPerMember = 3 * time.Millisecond

// gatherEvery is the interval in a cluster of that view; 0: steps do not wait.
func gatherEvery(v *sheepdog.View) time.Duration {
	if v == nil || len(v.Members) <= wideCluster {
		return 0
	}
	return time.Duration(len(v.Members)) * gatherPerMember
}

// gather has a step of recovery wait for others.
func (c *Cluster) gather(ctx context.Context, e entry) error {
	every := gatherEvery(c.pub.view())
	if every == 0 {
		return nil
	}
	if cmd := decodeCommand(e); !cmd.step() {
		return nil
	}
	return pause.For(ctx, every-c.opts.Clock()%every)
}
