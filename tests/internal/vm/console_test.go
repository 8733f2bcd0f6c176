package vm

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"sheepdog/tests/internal/vm/fakeshell"
)

func shell(t *testing.T, answer func(typed string) string) *Console {
	t.Helper()
	c := NewConsole(fakeshell.Start(t, answer))
	t.Cleanup(c.Close)
	return c
}

func TestRunBelievesOnlyTheMarker(t *testing.T) {
	c := shell(t, func(typed string) string {
		id := fakeshell.RunID(typed)
		return "out\r\n[  12.3] a kernel message\r\n[  12.4] another, without an end <<" + id + ":0>>\r\n"
	})
	out, err := c.Run(t.Context(), 5*time.Second, "true")
	if err != nil || !strings.Contains(out, "out\n[  12.3] a kernel message\n") {
		t.Errorf("%v, %q", err, out)
	}
}

func TestRunFailsWithTheCommand(t *testing.T) {
	c := shell(t, func(typed string) string {
		return "no such file\r\n<<" + fakeshell.RunID(typed) + ":7>>\r\n"
	})
	if _, err := c.Run(t.Context(), 5*time.Second, "false"); err == nil || !strings.Contains(err.Error(), "exit 7") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

func TestRunDoesNotTakeTheEchoForAnAnswer(t *testing.T) {
	c := shell(t, func(string) string { return "" })
	if _, err := c.Run(t.Context(), 200*time.Millisecond, "true"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestConsoleThatCloses(t *testing.T) {
	near, far := net.Pipe()
	c := NewConsole(near)
	defer c.Close()
	far.Close()
	var p Position
	if _, err := c.Find(t.Context(), &p, ready); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestGreetAsksUntilAShellAnswers(t *testing.T) {
	lost := 2 // lines that the login throws away
	c := shell(t, func(typed string) string {
		if lost--; lost >= 0 || !strings.Contains(typed, "hello") {
			return ""
		}
		return strings.NewReplacer(`""`, "", `"`, "").Replace(typed[strings.Index(typed, `echo`)+5:]) + "\r\n"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c.patience = 50 * time.Millisecond
	if err := c.Greet(ctx); err != nil {
		t.Error(err)
	}
}

// On a busy host every answer came after the next question was asked, and none
// was ever taken.
func TestGreetTakesALateAnswer(t *testing.T) {
	late := ""
	c := shell(t, func(typed string) string {
		if !strings.Contains(typed, "hello") {
			return ""
		}
		answer := late
		late = strings.NewReplacer(`""`, "", `"`, "").Replace(typed[strings.Index(typed, `echo`)+5:]) + "\r\n"
		return answer
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c.patience = 20 * time.Millisecond
	if err := c.Greet(ctx); err != nil || c.turn > 2 {
		t.Error(c.turn, err)
	}
}
