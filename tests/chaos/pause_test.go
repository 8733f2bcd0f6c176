package chaos

import (
	"syscall"
	"testing"
	"time"
)

// The node that orders the writes stands still, for shorter and longer than it
// takes others to notice, while guests write through all gateways.
func TestPauseOfTheCoordinator(t *testing.T) {
	a := enter(t, 3)
	a.populate()
	stop := a.verifyUntil(0, 1)
	long := 0
	n := rounds(t, 100, 3)
	for range n {
		time.Sleep(a.between(200*time.Millisecond, time.Second))
		var paused = a.coordinator("reg")
		if paused == nil {
			_, paused = a.pick() // between two coordinators
		}
		pause := a.between(50*time.Millisecond, 1500*time.Millisecond)
		if a.rng.IntN(3) == 0 {
			pause = a.between(1500*time.Millisecond, 4*time.Second)
			long++
		}
		a.Signal(paused, syscall.SIGSTOP)
		time.Sleep(pause)
		a.Signal(paused, syscall.SIGCONT)
	}
	t.Logf("%d pauses, %d of them longer than 1.5 s", n, long)
	stop()
	a.judge()
}
