package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// Fabric is a switch and a host per sheep, in network namespaces of their own.
type Fabric struct {
	tb    testing.TB
	name  string
	hosts int
}

// StartInNamespaces starts n sheep, each in a namespace with one link to a
// switch.
func StartInNamespaces(tb testing.TB, n int, args ...string) (*Lab, *Fabric) {
	tb.Helper()
	l, f := PlanInNamespaces(tb, n, args...)
	for _, s := range l.Sheep {
		l.Run(s)
	}
	return l, f
}

// PlanInNamespaces is StartInNamespaces without the start.
func PlanInNamespaces(tb testing.TB, n int, args ...string) (*Lab, *Fabric) {
	tb.Helper()
	Need(tb, "ip", "iptables", "nsenter")
	NeedRoot(tb, "to make network namespaces")
	f := &Fabric{tb: tb, name: fmt.Sprintf("shp%d", os.Getpid()), hosts: n}
	l := New(tb) // its directory goes last
	f.namespace(f.hub())
	f.ip(f.hub(), "link", "add", "br0", "type", "bridge")
	f.ip(f.hub(), "link", "set", "br0", "up")
	for i := range n {
		f.plug(i)
		s := l.Plan(i, args...)
		s.NS, s.Addr = f.host(i), f.addr(i)
	}
	tb.Cleanup(func() { // before the namespaces go
		for _, s := range l.Sheep {
			if s.Alive() {
				s.kill()
			}
		}
	})
	return l, f
}

func (f *Fabric) hub() string       { return f.name + "-hub" }
func (f *Fabric) host(i int) string { return fmt.Sprintf("%s-%d", f.name, i) }
func (f *Fabric) port(i int) string { return "p" + strconv.Itoa(i) }
func (f *Fabric) addr(i int) string { return fmt.Sprintf("10.123.45.%d", i+1) }

func (f *Fabric) ip(ns string, args ...string) {
	f.tb.Helper()
	Tool(f.tb, "ip", append([]string{"-n", ns}, args...)...)
}

func (f *Fabric) namespace(name string) {
	f.tb.Helper()
	note("netns", name)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		unnote("netns", name)
		f.tb.Skipf("SKIPPED: cannot make a network namespace here: %v: %s", err, out)
	}
	f.tb.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			f.tb.Errorf("delete namespace %s: %v: %s", name, err, out)
			return
		}
		unnote("netns", name)
	})
}

// plug makes host i and connects it to the switch.
func (f *Fabric) plug(i int) {
	f.tb.Helper()
	host := f.host(i)
	f.namespace(host)
	f.ip(f.hub(), "link", "add", f.port(i), "type", "veth", "peer", "name", "eth0", "netns", host)
	f.ip(f.hub(), "link", "set", f.port(i), "master", "br0")
	f.ip(f.hub(), "link", "set", f.port(i), "up")
	f.ip(host, "addr", "add", f.addr(i)+"/24", "dev", "eth0")
	f.ip(host, "link", "set", "eth0", "up")
	f.ip(host, "link", "set", "lo", "up")
}

// Cut takes host i off the switch; Mend puts it back.
func (f *Fabric) Cut(i int)  { f.ip(f.hub(), "link", "set", f.port(i), "down") }
func (f *Fabric) Mend(i int) { f.ip(f.hub(), "link", "set", f.port(i), "up") }

// Drop lets host to not hear what host from says. The reverse way stays open.
func (f *Fabric) Drop(from, to int) {
	f.tb.Helper()
	f.iptables(to, "-A", "INPUT", "-s", f.addr(from), "-j", "DROP")
}

// Mute drops all that host i says; it hears the others.
func (f *Fabric) Mute(i int) {
	f.tb.Helper()
	f.iptables(i, "-A", "OUTPUT", "-o", "eth0", "-j", "DROP")
}

// Deafen drops all that is said to host i; the others hear it.
func (f *Fabric) Deafen(i int) {
	f.tb.Helper()
	f.iptables(i, "-A", "INPUT", "-i", "eth0", "-j", "DROP")
}

// Part cuts all links between two sets of hosts, both ways.
func (f *Fabric) Part(a, b []int) {
	f.tb.Helper()
	for _, i := range a {
		for _, j := range b {
			f.Drop(i, j)
			f.Drop(j, i)
		}
	}
}

// LoseUDP drops a share of the datagrams that reach host i.
func (f *Fabric) LoseUDP(i int, share float64) {
	f.tb.Helper()
	f.iptables(i, "-A", "INPUT", "-p", "udp", "-m", "statistic", "--mode", "random", "--probability", strconv.FormatFloat(share, 'f', 3, 64), "-j", "DROP")
}

// Heal ends every Drop, Mute, Deafen, Part and LoseUDP.
func (f *Fabric) Heal() {
	f.tb.Helper()
	for i := range f.hosts {
		f.iptables(i, "-F")
	}
}

func (f *Fabric) iptables(i int, args ...string) {
	f.tb.Helper()
	Tool(f.tb, "ip", append([]string{"netns", "exec", f.host(i), "iptables", "-w"}, args...)...)
}
