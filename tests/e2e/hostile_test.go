package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
	"sheepdog/tests/internal/nbdclient"
)

// hostile are arguments that no command is made for.
var hostile = []string{"", strings.Repeat("x", 100_000), "\x01\x7f\x1b[31m\r\n", "ä日本語😀\u202e", "\xff\xfe", "-1", "16E", "18446744073709551616",
	"9223372036854775807", "1e400", "NaN", "../../../etc/passwd", "a@b@c", "0xffffffffff", "%s%n"}

// hostileLimit is longer than any command takes that refuses its arguments.
const hostileLimit = 30 * time.Second

// TestHostileArguments gives every command arguments that are empty, huge,
// negative, no text or no number, in every place. Whatever it answers, it ends
// with one of the exit codes that there are, and so does no sheep: they live, and
// have what they had.
func TestHostileArguments(t *testing.T) {
	w := start(t, 3)
	w.Format(2)
	w.Dog("vdi", "create", "witness", "8M")
	want := noise(21, 8<<20)
	w.dogWith(want, "vdi", "write", "witness")
	w.Dog("vdi", "snapshot", "-s", "kept", "witness")
	commands := w.commandNames()
	if len(commands) < 50 {
		t.Fatalf("only %d commands: %v", len(commands), commands)
	}
	lines := make(chan []string)
	var wg sync.WaitGroup
	h := &hostileRun{world: w, dir: t.TempDir()}
	for range 4 {
		wg.Go(func() {
			for args := range lines {
				h.try(t, args)
			}
		})
	}
	for _, c := range commands {
		w.Dog("vdi", "create", "good", "8M", "--if-not-exists") // some of the arguments are good names
		for _, bad := range hostile {
			lines <- slices.Concat(c, []string{"--", bad})
			lines <- slices.Concat(c, []string{"--", "good", bad})
			lines <- slices.Concat(c, []string{"-s", bad, "good", "good2"})
			lines <- slices.Concat(c, []string{"--", "good", bad, bad})
		}
	}
	close(lines)
	wg.Wait()
	w.hostileRequests(t)
	for _, s := range w.Sheep {
		if !s.Alive() {
			t.Errorf("sheep on port %d has ended", s.Port)
		}
	}
	for _, name := range []string{"witness", "witness@kept"} {
		if got := w.Dog("vdi", "read", name); got != string(want) {
			t.Errorf("%s has other bytes", name)
		}
	}
	w.Recovered(hostileLimit)
	w.Checked()
}

// commandNames lists the words of every command, from the usage of dog.
func (w *world) commandNames() (all [][]string) {
	w.TB.Helper()
	var walk func(words []string)
	walk = func(words []string) {
		out := lab.Tool(w.TB, filepath.Join(w.Bin, "dog"), slices.Concat(words, []string{"-h"})...)
		found := false
		_, list, _ := strings.Cut(out, "Usage:")
		list, _, _ = strings.Cut(list, "Options:")
		for l := range strings.Lines(list) {
			name, ok := strings.CutPrefix(l, "  ")
			if !ok || strings.HasPrefix(name, " ") {
				continue
			}
			found = true
			if name = strings.Fields(name)[0]; name != "completion" {
				walk(slices.Concat(words, []string{name}))
			}
		}
		if !found {
			all = append(all, words)
		}
	}
	walk(nil)
	return all
}

// hostileRun runs commands where they may leave files behind.
type hostileRun struct {
	*world
	dir string
}

func (h *hostileRun) try(t *testing.T, args []string) {
	s := h.Sheep[len(args)%len(h.Sheep)]
	ctx, cancel := context.WithTimeout(t.Context(), hostileLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(h.Bin, "dog"), args...)
	cmd.Dir, cmd.Env = h.dir, append(os.Environ(), fmt.Sprintf("SHEEPDOG_DOG_PORT=%d", s.Port))
	out, err := cmd.CombinedOutput()
	code := cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Errorf("dog %.200q: %v", args, err)
	case !slices.Contains([]int{0, 1, 2, 3, 5, 64}, code) && !(code == 255 && args[0] == "node"):
		t.Errorf("dog %.200q: exit %d, %.2000s", args, code, out)
	case code != 0 && len(out) == 0:
		t.Errorf("dog %.200q: exit %d without a word", args, code)
	case bytes.Contains(out, []byte("goroutine ")):
		t.Errorf("dog %.200q panics: %.2000s", args, out)
	}
}

// hostileRequests are what dog cannot type: NUL in names, numbers of no size,
// bodies without an end.
func (w *world) hostileRequests(t *testing.T) {
	t.Helper()
	deep := strings.Repeat(`{"name":`, 100_000)
	for path, bodies := range map[string][]string{
		"POST /v1/vdis": {`{"name":"a\u0000b","sizeBytes":4096}`, `{"name":"n","sizeBytes":-1}`, `{"name":"n","sizeBytes":1e300}`,
			`{"name":"n","sizeBytes":18446744073709551615}`, `{"name":"n","sizeBytes":4096,"blockSizeShift":255}`, `{"name":"n","sizeBytes":4096,"copies":"99:99"}`, deep, `[]`, `null`, ``},
		"POST /v1/vdis/rename": {`{"name":"witness","newName":"x\u0000"}`, `{"name":"witness","newName":"` + strings.Repeat("n", 70_000) + `"}`},
		"POST /v1/vdis/clone":  {`{"source":"witness","snapshot":"kept","name":"\u0000"}`, `{"source":"witness","snapshot":"kept","name":"c","sizeBytes":18446744073709551615}`},
	} {
		method, path, _ := strings.Cut(path, " ")
		for _, body := range bodies {
			req, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", w.First().Port, path), strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Errorf("%s %s %.100q: %v", method, path, body, err)
				continue
			}
			resp.Body.Close()
			if resp.StatusCode < 400 || resp.StatusCode >= 500 {
				t.Errorf("%s %s %.100q: status %d", method, path, body, resp.StatusCode)
			}
		}
	}
}

// TestCrowdLeavesFilesForTheNode has more clients come than the process may have
// files open. They had all of them: nobody reached the node any more, and who had
// data there waited.
func TestCrowdLeavesFilesForTheNode(t *testing.T) {
	const files = 256
	w := start(t, 2)
	s := w.Plan(2)
	s.Files = files
	w.Run(s)
	w.Format(3)
	w.Dog("vdi", "create", "disk", "8M")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	attached, refused := 0, 0
	for range 2 * files {
		c, err := nbdclient.Dial(ctx, w.Socket(s), "disk")
		if ctx.Err() != nil {
			t.Fatalf("client %d has no answer: %v", attached+refused, err)
		}
		if err != nil {
			refused++
			continue
		}
		defer c.Close()
		attached++
	}
	if attached < files/4 || refused == 0 {
		t.Errorf("%d clients were let in, %d refused", attached, refused)
	}
	if _, errText, code := w.DogWithin(ctx, s, noise(3, 1<<20), "vdi", "write", "disk"); code != 0 {
		t.Errorf("write through the crowded node: exit %d, %s", code, errText)
	}
}
