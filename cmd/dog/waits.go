package main

import (
	"context"
	"errors"
	"time"

	"sheepdog/api"
)

// Commands wait for as long as the cluster cannot serve: what was begun goes on
// when nodes are back, and --timeout is there for scripts. Whoever waits is told
// what for.
const (
	waitTold  = time.Second     // without an answer until it is looked why
	waitAsked = 2 * time.Second // for the node to say that; and between such looks
)

// explainWaits tells on stderr, once, why a request of c has no answer for a while.
// end stops that, and returns when nothing is written any more.
func (d *dog) explainWaits(ctx context.Context, c *api.Client) (end func()) {
	silent := make(chan struct{}, 1)
	c.OnSilence(waitTold, func() {
		select {
		case silent <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-silent:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			if why := whyNoAnswer(ctx, c.Addr()); why != "" && ctx.Err() == nil {
				d.talk("No answer yet: %s. Ctrl-C gives up, and so does --timeout.", why)
				return
			}
			select {
			case <-time.After(waitAsked):
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// whyNoAnswer asks the node, which knows without asking others; "" if nothing is
// amiss, and the request takes its time.
func whyNoAnswer(ctx context.Context, addr string) string {
	ctx, cancel := context.WithTimeout(ctx, waitAsked)
	defer cancel()
	c := api.NewClient(addr)
	defer c.Close()
	cl, err := c.Cluster(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "the node at " + addr + " is stopped, overloaded or cut off; other nodes are asked with -a and -p"
	case err != nil:
		return "" // the command itself is going to tell
	case cl.State == api.StateWaiting:
		return "the cluster waits for a majority of its nodes, or for those that hold the last copies of something. See dog cluster info, and start the nodes that are missing"
	case cl.State == api.StateHalted:
		return "writes wait until there are enough replicas again. See dog cluster info"
	}
	return ""
}
