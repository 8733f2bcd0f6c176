// Package pause waits for a time that can be cut short. It is for what has nothing
// else to wait for; who also waits for news waits in a select of its own.
package pause

import (
	"context"
	"time"
)

// For returns after d, or with the cause of the end of ctx. A pause of no length or less
// is over at once, and tells of a ctx that has ended.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		if ctx.Err() == nil {
			return nil
		}
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
