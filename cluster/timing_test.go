package cluster

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The clock of leases is that of the host, whichever way it is read.
func TestBoottimeIsTheHosts(t *testing.T) {
	read := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Fatal(err)
		}
		return time.Duration(ts.Nano())
	}
	for range 100 {
		before := read()
		got := boottime()
		if after := read(); got < before || got > after {
			t.Fatalf("%v is not between %v and %v", got, before, after)
		}
	}
}
