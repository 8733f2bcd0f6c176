package world

import (
	"testing"
	"testing/synctest"
	"time"
)

// A clock goes on from what it shows when its speed changes.
func TestClockIsSteered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		c.set(time.Hour, 10)
		time.Sleep(100 * time.Second)
		if got, want := c.now(), time.Hour+101*time.Second; got != want {
			t.Fatalf("the clock shows %v, want %v", got, want)
		}
		c.steer(-20)
		if got, want := c.now(), time.Hour+101*time.Second; got != want {
			t.Errorf("steered, the clock shows %v, want %v", got, want)
		}
		time.Sleep(100 * time.Second)
		if got, want := c.now(), time.Hour+199*time.Second; got != want {
			t.Errorf("the clock shows %v, want %v", got, want)
		}
	})
}
