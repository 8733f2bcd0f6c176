package api_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"sheepdog/api"
	"sheepdog/api/apitest"
)

// TestReadmeExamples runs every curl line of the README.
func TestReadmeExamples(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip(err)
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	b := apitest.New(3)
	_, base := serve(t, b, api.Options{})
	n := 0
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "curl -") {
			continue
		}
		n++
		out, err := exec.Command("sh", "-c", strings.ReplaceAll(line, "http://127.0.0.1:7000", base)).CombinedOutput()
		if err != nil {
			t.Errorf("%s%v: %s", line, err, out)
		}
		if strings.Contains(line, "length=5") && string(out) != "hello" {
			t.Errorf("%sread %q", line, out)
		}
	}
	if n < 15 || b.Stops() != 1 || len(b.Killed()) != 1 || !b.Info.Config.RecoveryDisabled {
		t.Errorf("%d examples, %d shutdowns, %d nodes killed", n, b.Stops(), len(b.Killed()))
	}
}
