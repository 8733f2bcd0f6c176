// Command sheep-libvirt lets everything that speaks libvirt use the cluster:
// pools of type sheepdog, their volumes, and domains with volumes as disks. It
// serves libvirt's protocol on a unix socket, alone or in front of a libvirtd.
// What it does is package libvirtpool's; here are flags and wiring.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set when a release is linked.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sheep-libvirt:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "sheep-libvirt",
		Short: "libvirt storage pools on a Sheepdog cluster",
		Long: `Serves libvirt's protocol: pools of type sheepdog and their volumes come from the
cluster. With --upstream everything else goes to that libvirtd, and domains may
use volumes as disks; without it there is storage only
(virsh -c 'storage:///system?socket=PATH').`,
		Args: cobra.NoArgs, Version: version, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "/run/sheep-libvirt/libvirt-sock", "socket for clients")
	f.StringVar(&o.listenRO, "listen-ro", "", "socket for clients that may only read")
	f.StringVar(&o.mode, "mode", "0660", "mode of the socket; the read-only one has 0666")
	f.StringVar(&o.group, "group", "", "group of the socket (default: this process's)")
	f.StringVar(&o.upstream, "upstream", "", "socket of the libvirtd behind (default: none, storage only)")
	f.StringVar(&o.upstreamRO, "upstream-ro", "", "its read-only socket; needed with --listen-ro")
	f.StringVar(&o.api, "api", "127.0.0.1:7000", "HOST:PORT of the local sheep")
	f.StringVar(&o.nbd, "nbd-socket", "", "NBD socket of the local sheep (default: as the sheep says)")
	f.IntVar(&o.reconnect, "nbd-reconnect", 0, "seconds that guests wait for a sheep that restarts; libvirt 9.0 ignores it")
	f.StringVar(&o.state, "state", "/run/sheep-libvirt", "directory in which active pools are remembered until the next boot")
	f.StringVar(&o.spool, "spool", "/var/tmp", "directory for qcow2 images while they are converted")
	f.IntVar(&o.maxClients, "max-clients", 0, "most clients at once (default 1000)")
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	return cmd
}
