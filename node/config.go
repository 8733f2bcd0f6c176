// Package node joins the rooms of a sheep: one Config, one wiring, used by the
// daemon and by the tests. It decides nothing itself: membership is cluster's,
// replicas are replica's and objectstore's, disks of guests are vdi's; here they
// are given to each other, and the control API and NBD are put in front.
//
// Main types: Config, Node.
package node

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"sheepdog"
	"sheepdog/cluster"
	"sheepdog/nbd"
	"sheepdog/vdi"
)

// Config is how a sheep is started.
type Config struct {
	Meta      string   // metadata directory; created if it does not exist
	Disks     []string // data directories; empty: Meta/obj
	Port      int      // of API, peers, Raft and gossip; default 7000
	Bind      string   // IP address to listen on; empty: Advertise
	Advertise string   // IP address that others use; empty: 127.0.0.1
	Zone      *uint32  // failure domain; nil: the four bytes of the address
	LocalFile string   // other sheep of this host are found in this file; see -c local
	// LocalByDefault says that nobody asked for LocalFile: a node of no cluster joins only
	// those beside it, see neighbours.go.
	LocalByDefault bool
	Seeds          []string // host:port of other sheep; see -c gossip
	NoSync         bool     // answer flushes without fdatasync
	Gateway        bool     // store nothing
	VNodes         int      // weight; 0: the default
	APIAddr        string   // host:port to serve the API on besides; empty: nowhere else
	NBDAddr        string   // host:port to serve NBD on; empty: only the unix socket
	NBDSocket      string   // path of the unix socket of NBD; empty: Meta/nbd.sock
	NBDGroup       string   // group that may open it, by name; empty: only this user
	Version        string   // of the program, for status and gossip
	Logger         *slog.Logger
	LogLevel       *slog.LevelVar // of Logger, for `dog node log level`; nil: it cannot be changed

	// RecoveryDelay is how long data are left where they are after a node was
	// lost, because it may come back; 0: the default of package recovery.
	RecoveryDelay time.Duration

	// Adopted are connections of NBD clients that a previous process left; Start
	// takes them over. Keep takes those of this node when it stops, so that they
	// can be Adopted by the next; it works on copies of their descriptors. nil:
	// they are closed.
	Adopted []nbd.Transfer
	Keep    func([]nbd.Transfer) error
	// ScrubEvery is the time in which all replicas are verified and compared once in
	// the background; negative: not at all, 0: the default of package recovery.
	ScrubEvery time.Duration

	// NearFull and Full are how much of the node's space may be used before it is
	// reported, and before new VDIs, clones and snapshots are refused, in percent;
	// 0: 85 and 95. Reserve is what writes of guests leave free of every file
	// system, in bytes; 0: 64 MiB.
	NearFull, Full int
	Reserve        int64
	// DefragmentRate bounds what is moved in the background because it was written at
	// random and is read in sequence, in bytes a second, and a thirty-second of that while
	// guests are busy; negative: nothing, 0: 32 MiB.
	DefragmentRate int64

	// standIn is set for a node that takes the place of another in the same process.
	standIn *standIn
	// Recode says when layers are erasure coded; zero: the default of package vdi.
	Recode vdi.RecodeTiming

	// What tests replace. Nil or zero: the real thing.
	Network    sheepdog.Network
	Engine     sheepdog.Engine
	RaftMemory *cluster.Memory
	Timing     cluster.Timing
	Clock      func() time.Duration
	Now        func() time.Time // the wall clock
	Identity   sheepdog.NodeID
	Boot       string // names the time since the machine was started
	NoNBD      bool   // no NBD at all, not even the socket
	// Wrap is put around every replica that this node's gateway and recovery talk
	// to, its own included, for faults that a network cannot make.
	Wrap func(to sheepdog.Member, r sheepdog.Replica) sheepdog.Replica
}

// maxSocketPath is what a unix socket's path may have on Linux, in bytes.
const maxSocketPath = 107

func (c *Config) fill() error {
	if c.Port == 0 {
		c.Port = sheepdog.DefaultPort
	}
	if c.Port < 1 || c.Port > 65535 {
		return fmt.Errorf("port %d: want 1 to 65535", c.Port)
	}
	if c.Advertise == "" {
		c.Advertise = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(c.Advertise)
	if err != nil || ip.IsUnspecified() {
		return fmt.Errorf("address %q: want the IP address at which other nodes reach this one", c.Advertise)
	}
	if c.Bind == "" {
		c.Bind = c.Advertise
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Recode == (vdi.RecodeTiming{}) {
		c.Recode = vdi.DefaultRecodeTiming()
	}
	if c.VNodes == 0 {
		c.VNodes = sheepdog.DefaultVNodes
	}
	if c.VNodes < 0 || c.VNodes > 65535 {
		return fmt.Errorf("number of vnodes %d: want 1 to 65535", c.VNodes)
	}
	if c.Gateway {
		c.VNodes = 0
	}
	if err := c.fillSpace(); err != nil {
		return err
	}
	if c.Zone == nil {
		z := zoneOf(ip)
		c.Zone = &z
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if n := len(c.socket()); !c.NoNBD && n > maxSocketPath {
		return fmt.Errorf("the path of the NBD socket, %s, has %d bytes, at most %d are possible; give a shorter one with --nbd-socket", c.socket(), n, maxSocketPath)
	}
	return nil
}

func (c *Config) fillSpace() error {
	if c.NearFull == 0 {
		c.NearFull = defaultNearFull
	}
	if c.Full == 0 {
		c.Full = defaultFull
	}
	if c.NearFull < 1 || c.Full > 100 || c.NearFull > c.Full {
		return fmt.Errorf("near full at %d %% and full at %d %%: want 1 to 100, the first not above the second", c.NearFull, c.Full)
	}
	if c.Reserve < 0 {
		return fmt.Errorf("reserve of %d bytes: want 0 or more", c.Reserve)
	}
	if c.DefragmentRate == 0 {
		c.DefragmentRate = defaultDefragmentRate
	}
	return nil
}

// zoneOf is the default zone: the bytes of an IPv4 address, the first one lowest,
// as the original has them. Several sheep of one host are one failure domain.
func zoneOf(ip netip.Addr) uint32 {
	b := ip.Unmap().AsSlice()
	b = b[len(b)-4:]
	return uint32(b[3])<<24 | uint32(b[2])<<16 | uint32(b[1])<<8 | uint32(b[0])
}

// addr is what other nodes dial.
func (c *Config) addr() string { return net.JoinHostPort(c.Advertise, strconv.Itoa(c.Port)) }

// listenAddr is what the node's port is bound to.
func (c *Config) listenAddr() string { return net.JoinHostPort(c.Bind, strconv.Itoa(c.Port)) }

func (c *Config) socket() string {
	if c.NBDSocket != "" {
		return c.NBDSocket
	}
	return filepath.Join(c.Meta, "nbd.sock")
}
