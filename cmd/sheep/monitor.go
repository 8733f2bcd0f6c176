package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// monitorSlack is how much later than it asked for the host may wake the thread with
// which Go's scheduler watches over the others.
const monitorSlack = 4 * time.Millisecond

// calmMonitor lets the host wake that thread less often. It is woken by the first system
// call after a moment in which all was idle, and then sleeps 20 us at a time until all is
// again, to which the host adds 50 us: each time two switches between threads and a timer,
// in all a fifth of the CPU of writes that are flushed one by one. What it does may
// well be done milliseconds later: it gives the processors of goroutines that are
// long in a system call to others, and interrupts goroutines that run for 10 ms.
//
// Only a process with CAP_SYS_NICE may say so of another thread than the one that
// asks, and only Linux knows of it.
func calmMonitor() error {
	thread, err := monitorThread()
	if err == nil {
		err = os.WriteFile("/proc/"+thread+"/timerslack_ns", strconv.AppendInt(nil, int64(monitorSlack), 10), 0)
	}
	if err != nil {
		return fmt.Errorf("let the scheduler's monitor thread sleep longer: %w", err)
	}
	return nil
}

// monitorThread is the id of that thread: the second of the process, for Go makes it
// before any other, and the host lists threads in the order in which they were made.
func monitorThread() (string, error) {
	d, err := os.Open("/proc/self/task")
	if err != nil {
		return "", err
	}
	defer d.Close()
	threads, err := d.Readdirnames(2)
	if err != nil {
		return "", err
	}
	if len(threads) < 2 || threads[0] != strconv.Itoa(os.Getpid()) {
		return "", fmt.Errorf("threads are listed as %v", threads)
	}
	return threads[1], nil
}
