package node

import (
	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster"
	"sheepdog/recovery"
	"sheepdog/vdi"
	"sheepdog/vdi/directory"
)

// What tests and programs that embed a node reach directly; other programs use
// the control API and NBD.

// VDIs opens virtual disks at this node.
func (n *Node) VDIs() *vdi.Manager { return n.vdis }

// Backend answers the control API.
func (n *Node) Backend() api.Backend { return backend{n} }

// Cluster is this node's part in the membership.
func (n *Node) Cluster() *cluster.Cluster { return n.cluster }

// Directory is this node's copy of the VDI directory.
func (n *Node) Directory() *directory.Directory { return n.dir }

// Recovery is the agent that keeps this node's replicas what the view asks for.
func (n *Node) Recovery() *recovery.Agent { return n.recovery }

// Self is this node in its present life.
func (n *Node) Self() sheepdog.Member { return n.self }
