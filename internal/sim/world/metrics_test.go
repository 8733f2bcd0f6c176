package world

import (
	"context"
	"fmt"
	"testing"
	"time"

	"sheepdog/api"
	"sheepdog/internal/prom/promtest"
)

// scrape reads the metrics of a node.
func (w *World) scrape(h *Host) []promtest.Family {
	w.t.Helper()
	text, err := h.Node().Backend().Metrics(context.Background())
	if err != nil {
		w.t.Fatalf("metrics of node %d: %v", h.Number, err)
	}
	families, err := promtest.Parse(string(text))
	if err != nil {
		w.t.Fatalf("metrics of node %d: %v", h.Number, err)
	}
	return families
}

// TestMetricsOfALostNode: every node tells how many replicas are missing while another one is
// away, and that none is once it has fetched what it missed.
func TestMetricsOfALostNode(t *testing.T) {
	why, trace := trial(t, Options{Seed: 3}, func(w *World) error {
		w.BootAll()
		w.Format()
		hosts := w.Hosts()
		if _, err := hosts[0].Node().Backend().CreateVDI(context.Background(), &api.CreateRequest{Name: "v", SizeBytes: 8 << 20}); err != nil {
			return err
		}
		// look compares what a node tells with what is wanted of a cluster of so many nodes.
		look := func(h *Host, members int) error {
			f := w.scrape(h)
			all, away := promtest.Find(f, "sheepdog_partitions"), float64(3-members)
			for name, want := range map[string]float64{"sheepdog_partitions_degraded": all * away, "sheepdog_replicas_missing": all * away,
				"sheepdog_partitions_waiting": 0, "sheepdog_recovery_partitions": 0} {
				if got := promtest.Find(f, name); all == 0 || got != want {
					return fmt.Errorf("node %d: %s is %v, want %v of %v", h.Number, name, got, want, all)
				}
			}
			if got := promtest.Find(f, "sheepdog_cluster_members", "role", "storage"); got != float64(members) {
				return fmt.Errorf("node %d: %v members, want %d", h.Number, got, members)
			}
			return nil
		}
		at := func(hosts []*Host, members int) {
			w.t.Helper()
			w.Await(20*time.Second, fmt.Sprintf("%d members are told of", members), func() error {
				for _, h := range hosts {
					if err := look(h, members); err != nil {
						return err
					}
				}
				return nil
			})
		}
		at(hosts, 3)
		hosts[2].Kill()
		at(hosts[:2], 2)
		if _, err := hosts[0].Node().Backend().CreateVDI(context.Background(), &api.CreateRequest{Name: "while away", SizeBytes: 8 << 20, Preallocate: true}); err != nil {
			return err
		}
		hosts[2].Boot()
		at(hosts, 3)
		if got := promtest.Find(w.scrape(hosts[2]), "sheepdog_recovery_received_bytes_total"); got == 0 {
			return fmt.Errorf("the node that came back received nothing, it tells")
		}
		leaders := 0.0
		for _, h := range hosts {
			leaders += promtest.Find(w.scrape(h), "sheepdog_raft_leader")
		}
		if leaders != 1 {
			return fmt.Errorf("%v leaders", leaders)
		}
		return nil
	})
	if why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}
