package node

import (
	"testing"
	"time"

	"sheepdog"
)

// A node with a spoiled object says so to the cluster, which has it filled again where
// another replica acts, and goes on where none does.
func TestSpoiledObjectIsToldToTheCluster(t *testing.T) {
	n := startReal(t)
	before := n.cluster.View()
	n.objectSpoiled(sheepdog.ObjectID{Family: 1}, 1)
	select {
	case <-n.cluster.Changed(before):
	case <-time.After(20 * time.Second):
		t.Fatal("the cluster was not told")
	}
	if pl := n.cluster.View().Tables[sheepdog.Policy{Copies: 1}][0]; pl.State != sheepdog.Clean || !pl.IsActing(n.self.ID) {
		t.Errorf("the last replica is %+v", pl)
	}
}
