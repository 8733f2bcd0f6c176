package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
)

// A write to a full store waited without a line in the log.
func TestWriteThatWaitsForSpaceIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(1, 2)
		c.publish(1, sheepdog.Clean, ids(1, 2), ids(1, 2))
		var full atomic.Bool
		full.Store(true)
		c.nodes[2].fail = func(op string) error {
			if op == "write" && full.Load() {
				return fmt.Errorf("disk d has 5 bytes free: %w", sheepdog.ErrNoSpace)
			}
			return nil
		}
		var log bytes.Buffer
		g := c.gateway()
		g.log = slog.New(slog.NewTextHandler(&log, nil))
		done := make(chan error, 1)
		go func() {
			done <- g.Write(t.Context(), &sheepdog.WriteRequest{Policy: three, Object: sheepdog.ObjectID{Family: 4, Index: 1}, Layer: 1,
				Count: 1, Data: make([]byte, sheepdog.BlockSize), Stamp: sheepdog.Stamp{Token: 1, Seq: 1}})
		}()
		time.Sleep(100 * time.Second)
		synctest.Wait() // who logs is done with it
		if err := g.WaitsForSpace(4); !errors.Is(err, sheepdog.ErrNoSpace) || !strings.Contains(err.Error(), "disk d has 5 bytes free") {
			t.Errorf("why the family waits: %v", err)
		}
		if err := g.WaitsForSpace(5); err != nil {
			t.Errorf("another family waits: %v", err)
		}
		if s := g.Stalled(); s.Writes != 1 || time.Since(s.Since) < 99*time.Second {
			t.Errorf("stalled: %+v", s)
		}
		if n := strings.Count(log.String(), "writes wait for space"); n < 3 || n > 5 {
			t.Errorf("%d lines in 100 s:\n%s", n, log.String())
		}
		full.Store(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := g.Stalled(); s.Writes != 0 || g.WaitsForSpace(4) != nil {
			t.Errorf("still stalled: %+v", s)
		}
		if !strings.Contains(log.String(), "no write waits for space any more") {
			t.Errorf("the end is not told:\n%s", log.String())
		}
	})
}
