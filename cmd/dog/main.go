// Command dog administers a Sheepdog cluster. It is a client of the control API
// and nothing else: it links no store, no Raft and no gossip, so that it starts
// at once. There is one file per noun; what is printed comes from
// internal/show.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set when a release is linked.
var version = "devel"

func main() {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as by nohup
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	d := &dog{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	code := d.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
