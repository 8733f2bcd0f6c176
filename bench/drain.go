package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"sheepdog/internal/pause"
)

// A log counts as empty when no more than this part of it is used: the segment that is
// written to always is.
const emptyLog = 1.0 / 16

// drainLimit is how long a log may take to get empty: a store that is left alone carries what
// it has within ten seconds if that replaced something.
const drainLimit = time.Minute

// drain waits until what was written is in its place at every sheep, and they rest. What was
// written must have replaced something, else it may stay in the logs.
func (o *ours) drain(ctx context.Context) error {
	const look = 500 * time.Millisecond // to ask takes the sheep some milliseconds, which are charged to what was measured
	for range int(drainLimit / look) {
		empty, err := o.logsAreEmpty(ctx)
		if err != nil {
			return err
		}
		if empty {
			return o.rest(ctx)
		}
		if err := pause.For(ctx, look); err != nil {
			return err
		}
	}
	return fmt.Errorf("the logs of the sheep are not empty after %v, though nobody writes", drainLimit)
}

// logsAreEmpty reports whether no sheep has more in its log than it always has.
func (o *ours) logsAreEmpty(ctx context.Context) (bool, error) {
	for i := range o.ports {
		got, err := o.metrics(ctx, i, "sheepdog_log_used_bytes", "sheepdog_log_limit_bytes")
		if err != nil {
			return false, err
		}
		if used, limit := got[0], got[1]; used > emptyLog*limit {
			return false, nil
		}
	}
	return true, nil
}

// metrics are values that the i-th sheep tells Prometheus.
func (o *ours) metrics(ctx context.Context, i int, names ...string) ([]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", o.ports[i]), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics of sheep %d: %w", i, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4*mib))
	if err != nil {
		return nil, fmt.Errorf("metrics of sheep %d: %w", i, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of sheep %d: %s: %.200s", i, resp.Status, text)
	}
	var out []float64
	for _, name := range names {
		value, err := parseMetric(text, name)
		if err != nil {
			return nil, fmt.Errorf("metrics of sheep %d: %w", i, err)
		}
		out = append(out, value)
	}
	return out, nil
}

// parseMetric finds a metric without labels in what a sheep tells Prometheus.
func parseMetric(text []byte, name string) (float64, error) {
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return strconv.ParseFloat(string(bytes.TrimSpace(value)), 64)
		}
	}
	return 0, fmt.Errorf("there is no %s among them", name)
}
