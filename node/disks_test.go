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

// Bug: spoiled objects waited where failed disks do, and when many did a disk that failed was
// never given up, so that flushes waited for ever.
func TestSpoiledObjectsLeaveRoomForFailedDisks(t *testing.T) {
	n := &Node{badDisks: make(chan string, 64), spoiled: make(chan struct{}, 1)}
	for range 1000 {
		n.objectSpoiled(sheepdog.ObjectID{Family: 1}, 1)
	}
	n.diskFailed("disk", nil)
	select {
	case dir := <-n.badDisks:
		if dir != "disk" {
			t.Errorf("disk %q failed", dir)
		}
	default:
		t.Error("nobody hears of the disk")
	}
}
