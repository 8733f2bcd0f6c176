package world

import (
	"sync"
	"sync/atomic"
	"time"
)

// wall is a host's wall clock, which is wrong by what somebody has set.
type wall struct{ wrong atomic.Int64 }

// now has nothing but the date: whoever measures with it meets every jump.
func (w *wall) now() time.Time { return time.Now().Add(time.Duration(w.wrong.Load())).Round(0) }

// clock is a host's own: it began at another time than that of others, and runs
// a little faster or slower.
type clock struct {
	mu    sync.Mutex
	start time.Time
	base  time.Duration // what it showed at start
	rate  int           // in thousandths, faster than true time
}

// now is what the clock shows.
func (c *clock) now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shows()
}

// shows is now with mu held.
func (c *clock) shows() time.Duration {
	return c.base + time.Since(c.start)*time.Duration(1000+c.rate)/1000
}

// set has the clock show a time and run at a rate.
func (c *clock) set(base time.Duration, rate int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start, c.base, c.rate = time.Now(), base, rate
}

// steer changes the rate; what the clock shows goes on from where it is.
func (c *clock) steer(rate int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.start, c.rate = c.shows(), time.Now(), rate
}
