package objectstore

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Only the thread that gives way has a lower priority, and it ends with its goroutine.
func TestGiveWay(t *testing.T) {
	nice := func() int {
		n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil {
			t.Fatal(err)
		}
		return 20 - n // as the system call has it
	}
	before := nice()
	done := make(chan [2]int)
	for range 8 {
		go func() {
			giveWay()
			done <- [2]int{nice(), unix.Gettid()}
		}()
		got := <-done
		if want := min(before+destageNice, 19); got[0] != want {
			t.Errorf("the thread has %d, want %d", got[0], want)
		}
	}
	for range 100 {
		go func() { done <- [2]int{nice(), unix.Gettid()} }()
		if got := <-done; got[0] != before {
			t.Fatalf("another goroutine has %d, want %d", got[0], before)
		}
	}
}
