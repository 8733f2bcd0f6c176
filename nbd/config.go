package nbd

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Defaults of Config.
const (
	DefaultConnections = 1024
	DefaultHandshakes  = 128
)

// Config is what a Server needs to know. Zero values of limits mean their
// defaults. The memory of a server is bounded by SharedBytes +
// MaxConnections * (ReservedBytes + 576 KiB) + MaxHandshakes * 512 KiB.
type Config struct {
	Exports Exports      // required
	Log     *slog.Logger // nil discards

	MaxConnections int // connections past the handshake; default DefaultConnections
	MaxHandshakes  int // more wait, a moment, then push out the oldest; default DefaultHandshakes
	MaxRequests    int // in flight per connection; default 256

	// MaxRequestBytes is the largest READ or WRITE, default 64 MiB. Clients may
	// assume that every server takes 32 MiB; some that ask for no limit send more.
	MaxRequestBytes int
	// MaxConnectionBytes bounds the payload in flight of a connection, default
	// 64 MiB. Reading of requests pauses there.
	MaxConnectionBytes int64
	// ReservedBytes of payload in flight are a connection's own, whatever others
	// do; default 1 MiB.
	ReservedBytes int64
	// SharedBytes of payload in flight are for all connections together; default
	// 1 GiB. Requests that find none wait in order.
	SharedBytes int64

	MaxOptionBytes int // of one option, default 64 KiB
	MaxOptions     int // in one handshake, default 64

	// HandshakeTimeout bounds a handshake, without the time that Exports take;
	// default 30 s.
	HandshakeTimeout time.Duration
	// OpenTimeout bounds a call of Exports; default 30 s.
	OpenTimeout time.Duration
	// StallTimeout closes a connection that stops in the middle of a payload, in
	// either direction; default 60 s.
	StallTimeout time.Duration
	// PressureTimeout takes the place of StallTimeout while others wait for
	// shared bytes; default 3 s.
	PressureTimeout time.Duration
}

// withDefaults fills in what is zero and refuses what cannot work.
func (c Config) withDefaults() (Config, error) {
	if c.Exports == nil {
		return c, errors.New("nbd: Config.Exports is missing")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	orElse(&c.MaxConnections, DefaultConnections)
	orElse(&c.MaxHandshakes, DefaultHandshakes)
	orElse(&c.MaxRequests, 256)
	orElse(&c.MaxRequestBytes, 64<<20)
	orElse(&c.MaxConnectionBytes, 64<<20)
	orElse(&c.ReservedBytes, 1<<20)
	orElse(&c.SharedBytes, 1<<30)
	orElse(&c.MaxOptionBytes, 64<<10)
	orElse(&c.MaxOptions, 64)
	orElse(&c.HandshakeTimeout, 30*time.Second)
	orElse(&c.OpenTimeout, 30*time.Second)
	orElse(&c.StallTimeout, 60*time.Second)
	orElse(&c.PressureTimeout, 3*time.Second)
	return c, c.check()
}

// orElse sets a limit that was left open.
func orElse[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// check tells of limits that contradict each other.
func (c Config) check() error {
	for _, l := range []struct {
		name  string
		value int64
		least int64
	}{
		{"MaxConnections", int64(c.MaxConnections), 1},
		{"MaxHandshakes", int64(c.MaxHandshakes), 1},
		{"MaxRequests", int64(c.MaxRequests), 1},
		{"MaxRequestBytes", int64(c.MaxRequestBytes), 64 << 10},
		{"MaxConnectionBytes", c.MaxConnectionBytes, 1},
		{"ReservedBytes", c.ReservedBytes, 1},
		{"SharedBytes", c.SharedBytes, bufferCap(c.MaxRequestBytes)},
		{"MaxOptionBytes", int64(c.MaxOptionBytes), maxString + 64},
		{"MaxOptions", int64(c.MaxOptions), 1},
		{"HandshakeTimeout", int64(c.HandshakeTimeout), 1},
		{"OpenTimeout", int64(c.OpenTimeout), 1},
		{"StallTimeout", int64(c.StallTimeout), 1},
		{"PressureTimeout", int64(c.PressureTimeout), 1},
	} {
		if l.value < l.least {
			return fmt.Errorf("nbd: Config.%s is %d, must be at least %d", l.name, l.value, l.least)
		}
	}
	if c.MaxRequestBytes > largestBuffer || c.MaxRequestBytes&(c.MaxRequestBytes-1) != 0 {
		return fmt.Errorf("nbd: Config.MaxRequestBytes is %d, must be a power of two of at most %d",
			c.MaxRequestBytes, largestBuffer)
	}
	return nil
}

// watchPeriod is how often stalls are looked for.
func (c Config) watchPeriod() time.Duration {
	return max(min(c.StallTimeout, c.PressureTimeout)/4, time.Millisecond)
}
