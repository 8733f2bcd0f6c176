package control

import (
	"context"
	"fmt"
	"io"
	"time"

	"sheepdog"
)

// How long one request may take. A sheep that hangs, or that waits for a majority,
// is out of reach then.
const (
	patience = 10 * time.Second // questions, which change nothing
	// decision is longer: who gives up a change does not know what becomes of it.
	decision = 20 * time.Second
	// standstill is for data: how long the cluster may take for the next piece.
	standstill = 30 * time.Second
)

func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("%w: no answer within %v; dog node list and dog cluster info tell more", sheepdog.ErrUnreachable, patience))
}

func decisive(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, decision, fmt.Errorf(
		"%w: no answer within %v, so it is not known whether the change was made: look again when dog cluster info answers", sheepdog.ErrUnreachable, decision))
}

// watchdog ends a transfer whose data do not move, unless that is because of who sends
// or takes them. It is awake while the cluster is to act.
type watchdog struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// watch returns a context that ends when the cluster stands still.
func watch(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	stuck := fmt.Errorf("%w: no data moved for %v; dog node list and dog cluster info tell more", sheepdog.ErrUnreachable, standstill)
	return ctx, &watchdog{timer: time.AfterFunc(standstill, func() { cancel(stuck) }), cancel: cancel}
}

func (d *watchdog) sleep() { d.timer.Stop() }
func (d *watchdog) wake()  { d.timer.Reset(standstill) }

func (d *watchdog) stop() {
	d.timer.Stop()
	d.cancel(nil)
}

// watchedReader is data from a client for the cluster.
type watchedReader struct {
	dog *watchdog
	r   io.Reader
}

func (w watchedReader) Read(b []byte) (int, error) {
	w.dog.sleep()
	defer w.dog.wake()
	return w.r.Read(b)
}

// watchedWriter is data from the cluster for a client.
type watchedWriter struct {
	dog *watchdog
	w   io.Writer
}

func (w watchedWriter) Write(b []byte) (int, error) {
	w.dog.sleep()
	defer w.dog.wake()
	return w.w.Write(b)
}
