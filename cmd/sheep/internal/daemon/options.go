package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sheepdog"
)

// options are the command line, as strings where they need more than cobra's
// parsing.
type options struct {
	port                int
	advertise, bind     string
	zone                string
	cluster             string
	told                bool // cluster was given
	noSync, foreground  bool
	gateway             bool
	log, pidFile        string
	vnodes              int
	nbd                 string
	nbdSocket, nbdGroup string
	recoveryDelay       time.Duration
	nearFull, full      int
	reserve             string
	defragmentRate      string
	scrubEvery          time.Duration

	paths    string
	obsolete []string // options given that no longer mean anything
}

// Settings are options understood: what a node needs. Paths are absolute.
type Settings struct {
	Meta      string
	Disks     []string
	Port      int
	Advertise string  // never empty
	Bind      string  // never empty
	Zone      *uint32 // nil: from the address
	Local     bool    // find the other sheep of this host
	Told      bool    // by -c how to find other nodes, which is not a default
	LocalFile string  // where; empty: the default file
	Seeds     []string
	NoSync    bool
	Gateway   bool
	VNodes    int    // 0: automatic
	APIAddr   string // host:port of the API besides; empty: none
	NBDAddr   string // host:port; empty: none
	NBDSocket string // path; empty: in Meta
	NBDGroup  string // that may open the socket; empty: none
	// RecoveryDelay is the wait before data move in place of a lost node.
	RecoveryDelay time.Duration
	// ScrubEvery is the time in which all replicas are checked once; 0: they are not.
	ScrubEvery time.Duration
	// Store keeps descriptors for the next process, nil: none; Kept are those of
	// the previous one. Both are set before the Runner runs.
	Store          *Store
	Kept           []Kept
	NearFull, Full int   // percent of the space
	Reserve        int64 // bytes that writes leave free of every file system
	DefragmentRate int64 // bytes a second; 0: nothing is moved
	// LogLevel is of the log that the Runner gets, set before it runs; a change has effect at once.
	LogLevel   *slog.LevelVar
	foreground bool
	pidFile    string
	log        logSettings
}

// command declares the options; run gets them as they were given.
func command(o *options, version string, run func() error) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "sheep [options] META[,DISK...]",
		Short:         "The daemon of Sheepdog: one node of a cluster",
		Long:          "The daemon of Sheepdog: one node of a cluster. META is the directory of the node's\nown data; each DISK is a directory for replicas (default: META/obj).",
		Version:       version,
		SilenceErrors: true, SilenceUsage: true, DisableFlagsInUseLine: true,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.SetVersionTemplate("Sheepdog daemon version {{.Version}}\n")
	f := cmd.Flags()
	f.IntVarP(&o.port, "port", "p", sheepdog.DefaultPort, "port of API, peers, Raft and gossip")
	f.StringVarP(&o.advertise, "myaddr", "y", "", "IP address at which other nodes reach this one (default: -b, else 127.0.0.1)")
	f.StringVarP(&o.bind, "bindaddr", "b", "", "IP address to listen on (default: -y, else 127.0.0.1)")
	f.StringVarP(&o.zone, "zone", "z", "", "failure domain, 0 to 4294967295 (default: from the IP address)")
	f.StringVarP(&o.cluster, "cluster", "c", "local", "how to find other nodes: local[:FILE], or gossip:HOST:PORT[,HOST:PORT...]; not given: local, for a new node only those whose META is beside its own")
	f.BoolVarP(&o.noSync, "nosync", "n", false, "answer flushes without syncing disks; a power cut may lose data")
	f.BoolVarP(&o.foreground, "foreground", "f", false, "do not become a daemon")
	f.BoolVarP(&o.gateway, "gateway", "g", false, "store nothing")
	f.StringVarP(&o.log, "log", "l", "", "log: level=LEVEL,dir=DIR,format={default|server|json},dst={default|syslog|stdout}")
	f.StringVarP(&o.pidFile, "pidfile", "P", "", "write the process id to this file")
	f.IntVarP(&o.vnodes, "vnodes", "V", 0, "fixed weight of this node, 1 to 65535 (default: 128)")
	f.DurationVar(&o.recoveryDelay, "recovery-delay", 5*time.Second, "how long data stay where they are after a node was lost, because it may come back")
	f.IntVar(&o.nearFull, "near-full", 85, "percent of the space in use at which the node is reported as nearly full")
	f.IntVar(&o.full, "full", 95, "percent of the space in use at which new VDIs, clones and snapshots are refused")
	f.StringVar(&o.reserve, "reserve", "64M", "space that writes leave free on every file system, so that deleting works")
	f.DurationVar(&o.scrubEvery, "scrub-every", defaultScrubEvery, "time in which all replicas are verified and compared once in the background; 0: never")
	f.StringVar(&o.defragmentRate, "defragment-rate", "32M", "bytes a second that are moved at most because they were written at random and are read in sequence; 0: none")
	f.StringVar(&o.nbd, "nbd", "", "address to serve NBD on, or none (default: 127.0.0.1, port 10809 plus the distance of -p from 7000)")
	f.StringVar(&o.nbdSocket, "nbd-socket", "", "path of the unix socket of NBD (default: META/nbd.sock)")
	f.StringVar(&o.nbdGroup, "nbd-group", "", "group that may open the unix socket of NBD, such as kvm (default: none)")
	f.BoolP("version", "v", false, "print the version")
	obsoleteFlags(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 1 {
			o.paths = args[0]
		}
		if journal := f.Lookup("journal"); journal.Changed {
			if err := checkJournal(journal.Value.String()); err != nil {
				return err
			}
		}
		o.told = f.Changed("cluster")
		for _, flag := range obsoleteOptions {
			if f.Changed(flag.long) {
				o.obsolete = append(o.obsolete, "-"+flag.short)
			}
		}
		return run()
	}
	return cmd
}

// obsoleteOptions are options of the original that no longer mean anything.
// Scripts that give them still work.
var obsoleteOptions = [...]struct {
	short, long string
	value       bool // has an argument
}{
	{"w", "wthreads", true}, {"x", "max-dynamic-threads", true}, {"j", "journal", true}, {"D", "directio", false}, {"R", "recovery", true},
	{"u", "upgrade", false}, {"W", "wildcard-recovery", false}, {"i", "ioaddr", true}, {"r", "http", true},
}

func obsoleteFlags(cmd *cobra.Command) {
	for _, flag := range obsoleteOptions {
		if flag.value {
			cmd.Flags().StringP(flag.long, flag.short, "", "no longer means anything")
		} else {
			cmd.Flags().BoolP(flag.long, flag.short, false, "no longer means anything")
		}
		if err := cmd.Flags().MarkHidden(flag.long); err != nil {
			panic(err)
		}
	}
}

// settings checks the options. fixed tells whether -V was given.
func (o *options) settings(fixed bool) (*Settings, error) {
	s := &Settings{Port: o.port, NoSync: o.noSync, Gateway: o.gateway, VNodes: o.vnodes, foreground: o.foreground}
	if s.Port < 1 || s.Port > 65535 {
		return nil, fmt.Errorf("Invalid port number '%d': want 1 to 65535", s.Port)
	}
	if fixed && (s.VNodes < 1 || s.VNodes > 65535) {
		return nil, fmt.Errorf("Invalid number of vnodes '%d': want 1 to 65535", s.VNodes)
	}
	if fixed && s.Gateway {
		return nil, fmt.Errorf("Options '-g' and '-V' can not be both specified")
	}
	if o.recoveryDelay < 0 || o.recoveryDelay > maxRecoveryDelay {
		return nil, fmt.Errorf("Invalid recovery delay '%v': want 0s to %v", o.recoveryDelay, maxRecoveryDelay)
	}
	s.RecoveryDelay, s.NBDGroup = o.recoveryDelay, o.nbdGroup
	if o.nbdSocket != "" {
		var err error
		if s.NBDSocket, err = filepath.Abs(o.nbdSocket); err != nil {
			return nil, err
		}
	}
	if o.scrubEvery != 0 && (o.scrubEvery < minScrubEvery || o.scrubEvery > maxScrubEvery) {
		return nil, fmt.Errorf("Invalid time between scrubs '%v': want 0s, or %v to %v", o.scrubEvery, minScrubEvery, maxScrubEvery)
	}
	s.ScrubEvery = o.scrubEvery
	for _, parse := range []func(*Settings) error{o.parsePaths, o.parseAddresses, o.parseZone, o.parseCluster, o.parseNBD, o.parseSpace} {
		if err := parse(s); err != nil {
			return nil, err
		}
	}
	log, err := parseLog(o.log, s.Meta)
	if err != nil {
		return nil, err
	}
	s.log = log
	s.foreground = s.foreground || log.dst == "stdout"
	if o.pidFile != "" {
		if s.pidFile, err = filepath.Abs(o.pidFile); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (o *options) parsePaths(s *Settings) error {
	if o.paths == "" {
		return fmt.Errorf("No metadata directory given: sheep [options] META[,DISK...]")
	}
	seen := make(map[string]bool)
	for i, path := range strings.Split(o.paths, ",") {
		if path == "" {
			return fmt.Errorf("Empty path in '%s'", o.paths)
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		if seen[abs] {
			return fmt.Errorf("Path %s is given twice", path)
		}
		seen[abs] = true
		if i == 0 {
			s.Meta = abs
		} else {
			s.Disks = append(s.Disks, abs)
		}
	}
	return nil
}

func (o *options) parseAddresses(s *Settings) error {
	for _, a := range []struct {
		option, value string
		any           bool
	}{{"-b", o.bind, true}, {"-y", o.advertise, false}} {
		if a.value == "" {
			continue
		}
		ip, err := netip.ParseAddr(a.value)
		if err != nil || ip.IsUnspecified() && !a.any {
			return fmt.Errorf("Invalid address '%s' (%s): want an IP address", a.value, a.option)
		}
	}
	s.Advertise, s.Bind = o.advertise, o.bind
	if s.Advertise == "" {
		s.Advertise = "127.0.0.1"
		if s.Bind != "" {
			s.Advertise = s.Bind
		}
	}
	if netip.MustParseAddr(s.Advertise).IsUnspecified() {
		return fmt.Errorf("Listening on all addresses (-b %s) needs -y: the address at which other nodes reach this one", s.Bind)
	}
	if s.Bind != "" {
		return nil
	}
	// Where dog looks for it.
	if s.Bind = s.Advertise; !netip.MustParseAddr(s.Bind).IsLoopback() {
		s.APIAddr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	}
	return nil
}

func (o *options) parseZone(s *Settings) error {
	if o.zone == "" {
		return nil
	}
	n, err := strconv.ParseUint(o.zone, 10, 32)
	if err != nil {
		return fmt.Errorf("Invalid zone id '%s': must be an integer between 0 and 4294967295", o.zone)
	}
	zone := uint32(n)
	s.Zone = &zone
	return nil
}

func (o *options) parseCluster(s *Settings) error {
	s.Told = o.told
	driver, rest, given := strings.Cut(o.cluster, ":")
	switch driver {
	case "local":
		s.Local = true
		if given {
			if rest == "" {
				return fmt.Errorf("Invalid cluster driver '%s': the file is empty", o.cluster)
			}
			abs, err := filepath.Abs(rest)
			if err != nil {
				return err
			}
			s.LocalFile = abs
		}
		return nil
	case "gossip":
		return parseSeeds(rest, s)
	case "corosync", "zookeeper", "shepherd":
		return fmt.Errorf("Cluster driver '%s' is not needed any more: name some nodes with -c gossip:HOST:PORT[,HOST:PORT...]", driver)
	}
	return fmt.Errorf("Invalid cluster driver '%s'\nSupported drivers:\n  local[:FILE]                      the sheep of this host\n  gossip:HOST:PORT[,HOST:PORT...]   any nodes of the cluster", o.cluster)
}

// maxRecoveryDelay bounds --recovery-delay.
const maxRecoveryDelay = 24 * time.Hour

// Bounds of --scrub-every.
const (
	defaultScrubEvery = 14 * 24 * time.Hour
	minScrubEvery     = time.Second
	maxScrubEvery     = 10 * 366 * 24 * time.Hour
)

// maxSeeds bounds how many nodes -c gossip names.
const maxSeeds = 1024

func parseSeeds(list string, s *Settings) error {
	for seed := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(seed)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || host == "" || n == 0 {
			return fmt.Errorf("Invalid node '%s' in -c gossip: want HOST:PORT", seed)
		}
		s.Seeds = append(s.Seeds, seed)
	}
	if len(s.Seeds) > maxSeeds {
		return fmt.Errorf("%d nodes in -c gossip: want at most %d", len(s.Seeds), maxSeeds)
	}
	return nil
}

func (o *options) parseNBD(s *Settings) error {
	if o.nbd == "none" {
		return nil
	}
	host, port := "127.0.0.1", ""
	if o.nbd != "" {
		var err error
		if host, port, err = net.SplitHostPort(o.nbd); err != nil {
			host, port = strings.Trim(o.nbd, "[]"), ""
		}
		if _, err := netip.ParseAddr(host); host != "" && err != nil {
			return fmt.Errorf("Invalid address '%s' (--nbd): want IP, IP:PORT or none", o.nbd)
		}
	}
	if port == "" {
		n := sheepdog.DefaultNBDPort + o.port - sheepdog.DefaultPort
		if n < 1 || n > 65535 {
			return fmt.Errorf("No NBD port follows from port %d (it would be %d): give --nbd ADDR:PORT or --nbd none", o.port, n)
		}
		port = strconv.Itoa(n)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("Invalid port number '%s' (--nbd)", port)
	}
	s.NBDAddr = net.JoinHostPort(host, port)
	return nil
}
