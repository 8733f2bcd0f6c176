package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// maxSkew is how far clocks may differ. Leases do not depend on it; times of
// snapshots and epochs do.
const maxSkew = 2 * time.Second

// probeTimeout bounds each look of the doctor.
const probeTimeout = 5 * time.Second

// symptom is one finding of the doctor, and its JSON.
type symptom struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"` // what to do
}

// diagnosis is what `dog doctor -o json` prints.
type diagnosis struct {
	Version int       `json:"version"`
	Checks  []symptom `json:"checks"`
}

func (g *diagnosis) add(ok bool, check, hint, format string, args ...any) {
	s := symptom{Check: check, OK: ok, Text: fmt.Sprintf(format, args...)}
	if !ok {
		s.Hint = hint
	}
	g.Checks = append(g.Checks, s)
}

func (d *dog) doctor() *cobra.Command {
	return &cobra.Command{Use: "doctor", Short: "Look for what is wrong: ports, clocks, MTU, disks, versions, quorum", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			g := &diagnosis{Version: api.Version, Checks: []symptom{}}
			nodes, err := c.Nodes(ctx)
			if err != nil {
				return failed(err, "get node list")
			}
			cl, err := c.Cluster(ctx)
			if err != nil {
				return failed(err, "get cluster information")
			}
			g.cluster(cl)
			versions := make(map[string][]string) // addresses of nodes
			for i := range nodes {
				g.node(ctx, &nodes[i], versions)
			}
			g.versions(versions)
			g.mtu(c.Addr())
			if cl.State == api.StateRunning || cl.State == api.StateHalted {
				g.disks(c.Capacities(ctx))
			}
			return d.printDiagnosis(g)
		})}
}

func (d *dog) printDiagnosis(g *diagnosis) error {
	bad := 0
	for _, s := range g.Checks {
		if !s.OK {
			bad++
		}
	}
	if d.json() {
		if err := d.document(g); err != nil {
			return err
		}
	} else {
		for _, s := range g.Checks {
			line := fmt.Sprintf("ok    %-9s %s\n", s.Check, s.Text)
			if !s.OK {
				line = fmt.Sprintf("BAD   %-9s %s\n                %s\n", s.Check, s.Text, upper(s.Hint))
			}
			if err := d.print(line); err != nil {
				return err
			}
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks failed.", bad, len(g.Checks))
	}
	return nil
}

func (g *diagnosis) cluster(cl *api.Cluster) {
	hints := map[api.ClusterState]string{
		api.StateUnformatted: "format it: dog cluster format",
		api.StateWaiting:     "start the nodes that are missing; dog cluster info lists those of the last epoch",
		api.StateHalted:      "start the nodes that are missing, or add some",
		api.StateShutdown:    "start it again when all nodes have stopped",
	}
	g.add(cl.State == api.StateRunning, "cluster", hints[cl.State], "the cluster is %s", cl.State)
	for _, w := range cl.Warnings {
		g.add(false, "warning", "see dog cluster info -v", "%s", w)
	}
}

// node looks at one node as a client of its port.
func (g *diagnosis) node(ctx context.Context, n *api.Node, versions map[string][]string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c := api.NewClient(n.Addr)
	defer c.Close()
	st, err := c.Status(ctx)
	if err != nil {
		g.add(false, "port", "start sheep there, or open its TCP and UDP port in the firewall", "node %s does not answer: %v", n.Addr, err)
		return
	}
	g.add(true, "port", "", "node %s answers", n.Addr)
	versions[st.Software] = append(versions[st.Software], n.Addr)
	if st.Leader == 0 && st.State != api.StateUnformatted {
		g.add(false, "quorum", "start more nodes; more than half of the voters must see each other", "node %s knows no leader", n.Addr)
	} else {
		g.add(true, "quorum", "", "node %s sees the leader", n.Addr)
	}
	g.clock(ctx, n.Addr)
}

func (g *diagnosis) versions(found map[string][]string) {
	var list []string
	for _, v := range slices.Sorted(maps.Keys(found)) {
		list = append(list, fmt.Sprintf("%s (%s)", v, strings.Join(found[v], ", ")))
	}
	g.add(len(found) < 2, "versions", "upgrade the older nodes", "versions of sheep that run: %s", strings.Join(list, "; "))
}

// clock compares the node's clock with ours; HTTP tells it in whole seconds.
func (g *diagnosis) clock(ctx context.Context, addr string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/healthz", nil)
	if err != nil {
		return
	}
	direct := &http.Transport{} // a proxy of the environment would tell its own time
	defer direct.CloseIdleConnections()
	resp, err := (&http.Client{Transport: direct}).Do(req)
	if err != nil {
		return // the port was looked at before
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return
	}
	skew := time.Since(at).Truncate(time.Second)
	g.add(skew.Abs() <= maxSkew, "clock", "synchronise the clocks, for example with chrony", "clock of node %s is %v from ours", addr, skew)
}

// minMTU is what every Ethernet has.
const minMTU = 1500

// mtu looks at the interface that leads to the node.
func (g *diagnosis) mtu(addr string) {
	conn, err := net.DialTimeout("tcp", addr, probeTimeout)
	if err != nil {
		return
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	list, err := net.Interfaces()
	if err != nil {
		return
	}
	for _, i := range list {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(local.IP) {
				g.add(i.MTU >= minMTU, "mtu", "raise it to 1500, or better 9000 on all nodes and switches", "interface %s has an MTU of %d", i.Name, i.MTU)
				return
			}
		}
	}
}

// The space in percent from which a node is too full.
const fullPercent = 90

func (g *diagnosis) disks(c *api.Capacities, err error) {
	if err != nil {
		g.add(false, "disk", "see dog cluster info, and the log of the node that was asked", "the space of the nodes is not known: %v", err)
		return
	}
	for _, n := range c.Nodes {
		switch size := n.UsedBytes + n.FreeBytes; {
		case n.VNodes == 0:
		case n.Error != "":
			g.add(false, "disk", "see the log of the node", "node %s does not tell its space: %s", n.Addr, n.Error)
		default:
			g.add(n.UsedBytes*100 < size*fullPercent, "disk", "delete VDIs or snapshots, or add nodes or disks", "node %s uses %s of %s", n.Addr, show.Size(n.UsedBytes), show.Size(size))
		}
	}
}
