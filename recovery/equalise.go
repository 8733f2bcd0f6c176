package recovery

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// verifyBlocks is how many blocks are verified or moved in one step.
const verifyBlocks = 1024

// circle is the acting replicas of some partitions, compared with each other in
// one revision.
type circle struct {
	*Agent
	revision sheepdog.Revision
	policy   sheepdog.Policy
	ids      []sheepdog.NodeID
}

// peerError says which replica an error is of.
type peerError struct {
	id  sheepdog.NodeID
	err error
}

func (e *peerError) Error() string { return fmt.Sprintf("node %s: %v", e.id, e.err) }
func (e *peerError) Unwrap() error { return e.err }

// each asks all replicas at once.
func (c *circle) each(ctx context.Context, ask func(ctx context.Context, i int, r sheepdog.Replica) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, id := range c.ids {
		g.Go(func() error {
			if err := ask(ctx, i, c.replica(id)); err != nil {
				return &peerError{id, err}
			}
			return nil
		})
	}
	return g.Wait()
}

// fetchAll asks all replicas for one range.
func (c *circle) fetchAll(ctx context.Context, req *sheepdog.FetchRequest) ([]*sheepdog.FetchReply, error) {
	replies := make([]*sheepdog.FetchReply, len(c.ids))
	err := c.each(ctx, func(ctx context.Context, i int, r sheepdog.Replica) (err error) {
		replies[i], err = c.fetch(ctx, r, req)
		return err
	})
	return replies, err
}

// layerGone reports whether an error means that the layer was deleted.
func layerGone(err error) bool {
	return errors.Is(err, sheepdog.ErrFrozen) || errors.Is(err, sheepdog.ErrNotFound)
}

// mend brings the bytes of a judgement to the replicas that lack them. The
// bytes are fetched now; if the source's record moved meanwhile, that write is
// on its way to all and nothing is done.
func (c *circle) mend(ctx context.Context, at sheepdog.FetchRequest, j judgement, rec sheepdog.Record) (done bool, err error) {
	at.WithData = true
	reply, err := c.fetch(ctx, c.replica(c.ids[j.source]), &at)
	if err != nil {
		return false, &peerError{c.ids[j.source], err}
	}
	if reply.Records[0] != rec || len(reply.Bad) > 0 {
		return false, nil
	}
	reply.Records[0].Stamp = j.stamp
	for _, i := range j.wrong {
		if err := c.writeAll(ctx, c.replica(c.ids[i]), repairs(&at, reply)); err != nil {
			return false, &peerError{c.ids[i], err}
		}
	}
	return true, nil
}
