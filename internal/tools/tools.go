//go:build tools

// Package tools pins modules that are not imported yet, so that packages built
// side by side share one go.mod. It goes when everything here is used.
package tools

import (
	_ "github.com/anishathalye/porcupine"
	_ "github.com/cockroachdb/datadriven"
	_ "github.com/dgraph-io/badger/v4"
	_ "github.com/hashicorp/go-hclog"
	_ "github.com/hashicorp/go-metrics"
	_ "github.com/hashicorp/memberlist"
	_ "github.com/hashicorp/raft"
	_ "github.com/pojntfx/go-nbd/pkg/client"
	_ "github.com/pojntfx/go-nbd/pkg/protocol"
	_ "github.com/pojntfx/go-nbd/pkg/server"
	_ "github.com/spf13/cobra"
	_ "go.uber.org/goleak"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "pgregory.net/rapid"
)
