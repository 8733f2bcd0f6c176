// Package fakeshell is a guest's shell as a console sees it, for tests.
//
// Main functions: Start, RunID.
package fakeshell

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"testing"
)

// Start returns the near end of a shell that, for every line typed, echoes the line and
// then prints what answer says. It ends with the test, before which its console is to be
// closed.
func Start(t *testing.T, answer func(typed string) string) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewScanner(far)
		for in.Scan() {
			if _, err := fmt.Fprintf(far, "root@guest:~# %s\r\n%s", in.Text(), answer(in.Text())); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		near.Close()
		far.Close()
		<-done
	})
	return near
}

var runID = regexp.MustCompile(`<''<(run-\d+):`)

// RunID is the marker that the command typed by Run asks for.
func RunID(typed string) string { return runID.FindStringSubmatch(typed)[1] }
