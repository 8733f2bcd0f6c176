package pause

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := errors.New("over")
		ctx, cancel := context.WithCancelCause(t.Context())
		began := time.Now()
		for _, d := range []time.Duration{-time.Second, 0, time.Second} {
			if err := For(ctx, d); err != nil {
				t.Errorf("a pause of %v: %v", d, err)
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("pauses of a second together took %v", took)
		}
		go func() {
			time.Sleep(time.Minute)
			cancel(over)
		}()
		if err := For(ctx, time.Hour); !errors.Is(err, over) {
			t.Errorf("a pause that was cut short: %v", err)
		}
		if took := time.Since(began); took != time.Minute+time.Second {
			t.Errorf("it was cut short after %v", took)
		}
		for _, d := range []time.Duration{-time.Second, 0, time.Hour} {
			if err := For(ctx, d); !errors.Is(err, over) {
				t.Errorf("a pause of %v after the end of ctx: %v", d, err)
			}
		}
	})
}
