package cluster

import (
	"github.com/hashicorp/raft"

	"sheepdog"
)

// ID is the cluster that this node belongs to; zero before it is formatted.
func (c *Cluster) ID() sheepdog.ClusterID { return c.clusterID() }

// RefreshHints has the others told at once what Options.Info says now.
func (c *Cluster) RefreshHints() { c.gossip.refresh() }

// Voter reports whether this node takes part in elections.
func (c *Cluster) Voter() bool {
	cons := c.consensus.Load()
	if cons == nil {
		return false
	}
	servers, err := cons.servers()
	if err != nil {
		return false
	}
	for _, s := range servers {
		if s.ID == raft.ServerID(c.opts.Self.ID.String()) {
			return s.Suffrage == raft.Voter
		}
	}
	return false
}
