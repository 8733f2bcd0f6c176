// Command sheep is the daemon of Sheepdog, one per node. Becoming a daemon is
// internal/daemon; being a node is package node; here one is given to the other.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"sheepdog/cmd/sheep/internal/daemon"
	"sheepdog/cmd/sheep/internal/handover"
	"sheepdog/nbd"
	"sheepdog/node"
)

// version is set when a release is linked.
var version = "devel"

func main() {
	if err := daemon.Execute(os.Args[1:], version, node.MappedDirs(), run); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run gives the settings to package node.
func run(ctx context.Context, s *daemon.Settings, log *slog.Logger, ready func()) error {
	c := node.Config{
		Meta: s.Meta, Disks: s.Disks, Port: s.Port, Bind: s.Bind, Advertise: s.Advertise, Zone: s.Zone,
		LocalFile: s.LocalFile, Seeds: s.Seeds, NoSync: s.NoSync, Gateway: s.Gateway, VNodes: s.VNodes,
		NearFull: s.NearFull, Full: s.Full, Reserve: s.Reserve, DefragmentRate: s.DefragmentRate,
		APIAddr: s.APIAddr, NBDAddr: s.NBDAddr, NBDSocket: s.NBDSocket, NBDGroup: s.NBDGroup, RecoveryDelay: s.RecoveryDelay, ScrubEvery: s.ScrubEvery, Version: version, Logger: log, LogLevel: s.LogLevel,
	}
	if c.RecoveryDelay == 0 {
		c.RecoveryDelay = -1 // none, where zero is the default
	}
	if c.ScrubEvery == 0 {
		c.ScrubEvery = -1 // the same
	}
	if c.DefragmentRate == 0 {
		c.DefragmentRate = -1 // the same
	}
	c.Adopted = handover.Adopt(s.Kept, log)
	if s.Store != nil {
		c.Keep = func(t []nbd.Transfer) error { return handover.Keep(s.Store, t) }
	}
	if s.Local && c.LocalFile == "" {
		c.LocalFile, c.LocalByDefault = node.DefaultLocalFile(), !s.Told
	}
	if err := calmMonitor(); err != nil {
		log.Debug("writes that are flushed take more CPU than they need", "err", err)
	}
	bounded, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { boundMemory(bounded) })
	defer wg.Wait()
	defer stop()
	return node.Run(ctx, c, ready)
}
