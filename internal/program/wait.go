package program

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Final is an error that waiting cannot mend.
type Final struct{ Err error }

func (f Final) Error() string { return f.Err.Error() }

// Unwrap returns the error itself.
func (f Final) Unwrap() error { return f.Err }

// pollEvery is the pause between two looks of Eventually.
const pollEvery = 20 * time.Millisecond

// Eventually polls until check returns nil, a Final error, or the limit is over.
// It is for conditions of other processes that have no event to wait for.
func Eventually(ctx context.Context, limit time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := check()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err // later ones only say that the time is over
		}
		var f Final
		if errors.As(err, &f) {
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %s: %w", limit, what, last)
		}
	}
}
