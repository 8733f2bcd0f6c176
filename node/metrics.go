package node

import (
	"context"
	"fmt"
	"runtime"

	"sheepdog/api"
	"sheepdog/cluster"
	"sheepdog/internal/prom"
	"sheepdog/objectstore"
)

// Metrics writes what operators watch for Prometheus: this node, and the cluster as this
// node knows it. It asks no other node and reads counters that are there anyway, so that
// a scrape costs guests nothing, however many VDIs there are.
func (b backend) Metrics(context.Context) ([]byte, error) {
	w := new(prom.Writer)
	n := b.n
	n.writeIdentity(w)
	n.writeCluster(w)
	n.writeRedundancy(w)
	n.writeVDIs(w)
	if err := n.writeSpace(w); err != nil {
		return nil, err
	}
	n.writeStore(w)
	n.stats.write(w)
	n.writeRecovery(w)
	n.writeNBD(w)
	writeProcess(w, n.started)
	writeRuntime(w)
	return w.Bytes(), nil
}

func label(name, value string) prom.Label { return prom.Label{Name: name, Value: value} }

func (n *Node) writeIdentity(w *prom.Writer) {
	w.Gauge("sheepdog_build_info", "What runs; always 1.").Value(1, label("version", n.cfg.Version), label("go", runtime.Version()))
	w.Gauge("sheepdog_node_info", "Which node this is; always 1.").
		Value(1, label("node", n.self.ID.String()), label("addr", n.self.Addr), label("zone", fmt.Sprint(n.self.Zone)))
}

func (n *Node) writeCluster(w *prom.Writer) {
	state := n.state()
	f := w.Gauge("sheepdog_cluster_state", "What the cluster can do, as this node sees it: 1 for the state that it is in.")
	for _, s := range []api.ClusterState{api.StateUnformatted, api.StateWaiting, api.StateRunning, api.StateHalted, api.StateShutdown} {
		f.Bool(s == state, label("state", string(s)))
	}
	leader, self := n.cluster.Leader()
	w.Gauge("sheepdog_raft_leader", "Whether this node leads the Raft group.").Bool(self)
	w.Gauge("sheepdog_raft_leader_known", "Whether this node knows of a leader; without one nothing can be changed.").Bool(leader != "")
	w.Gauge("sheepdog_raft_voter", "Whether this node takes part in elections.").Bool(n.cluster.Voter())
	w.Gauge("sheepdog_raft_patience_ratio", "How many times longer than usual this node waits for a leader; above 1 after elections that followed each other at once.").
		Value(float64(n.cluster.Unrest()))
	v := n.cluster.View()
	if v == nil {
		return
	}
	stores := 0
	for _, m := range v.Members {
		if m.VNodes > 0 {
			stores++
		}
	}
	w.Gauge("sheepdog_cluster_epoch", "Number of the committed membership.").Value(float64(v.Epoch))
	w.Gauge("sheepdog_cluster_revision", "Number of the committed view; rises also when replicas of data move.").Value(float64(v.Revision))
	f = w.Gauge("sheepdog_cluster_members", "Members of the committed view.")
	f.Value(float64(stores), label("role", "storage"))
	f.Value(float64(len(v.Members)-stores), label("role", "gateway"))
	w.Counter("sheepdog_members_removed_in_vain_total", "Members that were removed and came back at once: overloaded nodes or networks.").Value(float64(n.cluster.RemovedInVain()))
	w.Gauge("sheepdog_cluster_zones", "Failure domains with storage.").Value(float64(v.StorageZones()))
	w.Gauge("sheepdog_cluster_recovery_enabled", "Whether data may move; see dog cluster recover.").Bool(!v.Config.RecoveryDisabled)
}

// writeRedundancy tells of the whole cluster's replicas, as the committed view has them.
func (n *Node) writeRedundancy(w *prom.Writer) {
	v := n.cluster.View()
	if v == nil {
		return
	}
	r := n.redundancyOf(v)
	w.Gauge("sheepdog_partitions", "Partitions of the data of all nodes, under each redundancy in use.").Value(float64(r.partitions))
	w.Gauge("sheepdog_partitions_degraded", "Partitions with fewer complete replicas on members than their redundancy asks for.").Value(float64(r.degraded))
	w.Gauge("sheepdog_partitions_waiting", "Partitions that no guest can write: too few complete replicas, or these are being compared.").Value(float64(r.waiting))
	w.Gauge("sheepdog_replicas_missing", "Complete replicas of partitions that are missing, together.").Value(float64(r.missing))
}

func (n *Node) writeVDIs(w *prom.Writer) {
	vdis, snapshots, trashed := n.dir.Count()
	f := w.Gauge("sheepdog_vdis", "VDIs of the cluster, without snapshots.")
	f.Value(float64(vdis), label("state", "active"))
	f.Value(float64(trashed), label("state", "trash"))
	w.Gauge("sheepdog_snapshots", "Snapshots of the cluster.").Value(float64(snapshots))
	open, coordinated := n.vdis.Opened()
	w.Gauge("sheepdog_vdis_open", "VDIs that clients have open through this node.").Value(float64(open))
	w.Gauge("sheepdog_vdis_coordinated", "VDIs whose writes this node orders.").Value(float64(coordinated))
}

// writeSpace tells of this node's disks.
func (n *Node) writeSpace(w *prom.Writer) error {
	w.Gauge("sheepdog_writes_waiting_for_space", "Writes of this node's guests that wait for space on some node.").Value(float64(n.gateway.Stalled().Writes))
	if n.self.VNodes == 0 {
		return nil
	}
	u, err := n.engine.Usage()
	if err != nil {
		return err
	}
	w.Gauge("sheepdog_store_used_bytes", "Space that this node's data, log and metadata take.").Value(float64(u.Used))
	w.Gauge("sheepdog_store_free_bytes", "Space that this node can still use, without the reserve.").Value(float64(u.Free))
	w.Gauge("sheepdog_store_capacity_bytes", "Space used and free.").Value(float64(u.Used + u.Free))
	class := n.spaceClass(u)
	w.Gauge("sheepdog_store_near_full", "Whether the node is over its threshold --near-full.").Bool(class >= cluster.SpaceNearFull)
	w.Gauge("sheepdog_store_full", "Whether the node is over its threshold --full: new VDIs, clones and snapshots are refused.").Bool(class >= cluster.SpaceFull)
	disks, err := n.disks()
	if err != nil || len(disks) == 0 {
		return err
	}
	disk := func(name, help string, value func(*api.Disk) float64) {
		f := w.Gauge(name, help)
		for i := range disks {
			f.Value(value(&disks[i]), label("disk", disks[i].Path))
		}
	}
	disk("sheepdog_disk_used_bytes", "Space that is used on a disk of this node.", func(d *api.Disk) float64 { return float64(d.UsedBytes) })
	disk("sheepdog_disk_free_bytes", "Space that is free on a disk of this node, without the reserve.", func(d *api.Disk) float64 { return float64(d.FreeBytes) })
	disk("sheepdog_disk_failed", "Whether a disk of this node failed or is missing.", func(d *api.Disk) float64 {
		if d.State == string(objectstore.DiskFailed) || d.State == string(objectstore.DiskMissing) {
			return 1
		}
		return 0
	})
	return nil
}

func (n *Node) writeStore(w *prom.Writer) {
	if n.store == nil {
		return
	}
	s := n.store.Status()
	w.Gauge("sheepdog_log_used_bytes", "Segments of the write log with data that are not in their place yet.").Value(float64(s.LogBytes))
	w.Gauge("sheepdog_log_limit_bytes", "Segments that the write log may have.").Value(float64(s.LogLimitBytes))
	w.Gauge("sheepdog_log_backlog_bytes", "Data in the write log, those written again since included.").Value(float64(s.BacklogBytes))
	w.Gauge("sheepdog_store_pressure_ratio", "How near the store is to holding writers back: a little from 0.7 on, all of them at 1.").Value(s.Level)
	w.Counter("sheepdog_defragmented_bytes_total", "Data that were moved so that they lie in sequence, because they were written at random and are read in sequence.").Value(float64(s.DefragmentedBytes))
	w.Gauge("sheepdog_defragment_waiting_bytes", "Data that wait to be looked at for that, at most.").Value(float64(s.WaitingBytes))
	f := w.Counter("sheepdog_store_bad_blocks_total", "Blocks of 4 KiB that were read and were bad, each read counted; other replicas have served and healed them.")
	f.Value(float64(s.RottenBlocks), label("cause", "checksum"))
	f.Value(float64(s.UnreadBlocks), label("cause", "unreadable"))
}

func (n *Node) writeRecovery(w *prom.Writer) {
	p := n.recovery.Progress()
	w.Gauge("sheepdog_recovery_partitions", "Partitions that this node is completing or comparing.").Value(float64(p.Partitions))
	w.Gauge("sheepdog_recovery_partitions_waiting", "Partitions that this node would complete, and whose complete replicas are away.").Value(float64(p.Waiting))
	w.Gauge("sheepdog_recovery_objects_remaining", "Objects of the partitions met so far that are not in place yet.").Value(float64(p.Total - min(p.Finished, p.Total)))
	w.Counter("sheepdog_recovery_received_bytes_total", "Data that this node fetched from others to complete its replicas.").Value(float64(p.ReceivedBytes))
	w.Gauge("sheepdog_recovery_strips_remaining", "Erasure coded objects whose strip this node has to make.").Value(float64(n.keeper.Pending()))
	s := n.recovery.Scrub()
	w.Gauge("sheepdog_scrub_progress_ratio", "How far this node's share of the background check is.").Value(float64(s.Slice) / float64(s.Slices))
	w.Gauge("sheepdog_scrub_completed_timestamp_seconds", "When the background check had been over all of its share last; 0: never yet.").Time(s.Completed)
	w.Counter("sheepdog_scrub_objects_total", "Replicas of objects that the background check has looked at.").Value(float64(s.Objects))
	f := w.Counter("sheepdog_scrub_found_blocks_total", "Blocks that the background check found to be wrong.")
	f.Value(float64(s.Bad), label("fault", "checksum"))
	f.Value(float64(s.Missing), label("fault", "missing"))
	f.Value(float64(s.Differing), label("fault", "differing"))
	w.Counter("sheepdog_scrub_healed_blocks_total", "Blocks that the background check has healed.").Value(float64(s.Healed))
	w.Counter("sheepdog_scrub_lost_blocks_total", "Blocks of which the background check found no good replica.").Value(float64(s.Lost))
}

func (n *Node) writeNBD(w *prom.Writer) {
	if n.nbd == nil {
		return
	}
	attached, most := n.nbd.Clients()
	w.Gauge("sheepdog_nbd_connections", "Clients that are attached by NBD.").Value(float64(attached))
	w.Gauge("sheepdog_nbd_connections_limit", "Clients that may be.").Value(float64(most))
}

// write tells what was served.
func (s *stats) write(w *prom.Writer) {
	origins := []struct {
		name string
		*counters
	}{{"client", &s.client}, {"peer", &s.peer}}
	each := func(visit func(o *op, labels ...prom.Label), timed bool) {
		for _, c := range origins {
			for _, k := range []struct {
				name  string
				op    *op
				timed bool
			}{{"read", &c.read, true}, {"write", &c.write, true}, {"zero", &c.remove, true}, {"flush", &c.flush, true}, {"other", &c.other, false}} {
				if k.timed || !timed {
					visit(k.op, label("origin", c.name), label("op", k.name))
				}
			}
		}
	}
	f := w.Gauge("sheepdog_requests_in_flight", "Requests that are not answered yet.")
	for _, c := range origins {
		f.Value(float64(max(c.active.Load(), 0)), label("origin", c.name))
	}
	f = w.Counter("sheepdog_requests_total", "Requests begun: of clients, by NBD and the control API, and of other nodes, for replicas kept here.")
	each(func(o *op, l ...prom.Label) { f.Value(float64(o.requests.Load()), l...) }, false)
	f = w.Counter("sheepdog_request_errors_total", "Requests that were answered with an error.")
	each(func(o *op, l ...prom.Label) { f.Value(float64(o.errors.Load()), l...) }, false)
	f = w.Counter("sheepdog_request_bytes_total", "Data moved by requests that succeeded.")
	for _, c := range origins {
		f.Value(float64(c.read.bytes.Load()), label("origin", c.name), label("op", "read"))
		f.Value(float64(c.write.bytes.Load()), label("origin", c.name), label("op", "write"))
	}
	f = w.Histogram("sheepdog_request_duration_seconds", "Time until a request was answered: of NBD clients, and of other nodes but for what repairs.")
	each(func(o *op, l ...prom.Label) { f.Distribution(o.distribution(), l...) }, true)
}

func (o *op) distribution() prom.Distribution {
	d := prom.Distribution{Bounds: make([]float64, latencyBuckets), Counts: make([]uint64, latencyBuckets+1)}
	for i := range d.Bounds {
		d.Bounds[i] = latencyBound(i).Seconds()
	}
	d.Sum = float64(o.nanos.Load()) / 1e9
	for i := range d.Counts {
		d.Counts[i] = o.buckets[i].Load()
	}
	return d
}
