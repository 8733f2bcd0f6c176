package objectstore

import "golang.org/x/sys/unix"

// lowerPriority is for the calling thread alone, as Linux has it. That it may not be
// done is no error: it is a matter of speed.
func lowerPriority(by int) {
	if n, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-n+by) // the system call tells 20 less the value
	}
}
