package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"sheepdog/api"
)

// A command that waits for the cluster said nothing, for ever.
func TestWhoeverWaitsIsTold(t *testing.T) {
	for _, c := range []struct {
		state api.ClusterState
		want  string // on stderr; "": nothing
	}{
		{api.StateWaiting, "No answer yet: the cluster waits for a majority"},
		{api.StateHalted, "No answer yet: writes wait"},
		{api.StateRunning, ""},
	} {
		t.Run(string(c.state), func(t *testing.T) {
			f := newFixture(t, 3)
			f.backend.Info.State = c.state
			told := make(chan struct{})
			stderr := &watched{find: "No answer yet", found: told}
			asked := make(chan struct{})
			ask := sync.OnceFunc(func() { close(asked) })
			f.backend.Fail = func(method string) error {
				switch {
				case method == "Cluster":
					ask()
				case c.want == "":
					<-asked
				default:
					<-told // a list that would never come without
				}
				return nil
			}
			d := &dog{stdin: strings.NewReader(""), stdout: new(bytes.Buffer), stderr: stderr, getenv: func(k string) string { return f.env[k] }}
			if code := d.run(t.Context(), []string{"vdi", "list", "--timeout", "60s"}); code != exitOK {
				t.Errorf("exit code %d: %s", code, stderr)
			}
			if got := stderr.String(); !strings.Contains(got, c.want) || c.want == "" && got != "" {
				t.Errorf("stderr: %q", got)
			}
		})
	}
}

// watched closes found when find has been written.
type watched struct {
	bytes.Buffer
	find  string
	found chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if w.found != nil && strings.Contains(w.String(), w.find) {
		close(w.found)
		w.found = nil
	}
	return n, err
}
