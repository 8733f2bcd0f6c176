package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// formatVersion is that of stored results.
const formatVersion = 1

// result is everything that a run found, as it is stored.
type result struct {
	Version int                            `json:"version"`
	Commit  string                         `json:"commit"`
	When    time.Time                      `json:"when"`
	Machine string                         `json:"machine"` // what it ran on
	Command string                         `json:"command"`
	Rows    []string                       `json:"rows"`    // in the order in which they were run
	Systems []string                       `json:"systems"` // ours first
	Samples map[string]map[string][]sample `json:"samples"` // by row and system
}

func newResult(p *plan) *result {
	return &result{Version: formatVersion, Commit: commit(), When: time.Now().UTC().Truncate(time.Second), Machine: describeMachine(),
		Command: "bench " + strings.Join(os.Args[1:], " "), Systems: p.systems, Samples: make(map[string]map[string][]sample)}
}

// commit is what was built, with a mark if it is not what git has; empty outside
// a repository.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func describeMachine() string {
	var u syscall.Utsname
	kernel := ""
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			kernel += string(rune(c))
		}
	}
	return fmt.Sprintf("%d CPUs, %s %s, %s", runtime.NumCPU(), runtime.GOOS, kernel, runtime.Version())
}

func (r *result) add(row, system string, s sample) {
	if r.Samples[row] == nil {
		r.Samples[row] = make(map[string][]sample)
		r.Rows = append(r.Rows, row)
	}
	r.Samples[row][system] = append(r.Samples[row][system], s)
}

// store writes the result into a directory, as COMMIT.json; an earlier one of the
// same commit is replaced. Nothing is stored if the directory's name is empty.
func (r *result) store(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	name := r.Commit
	if name == "" {
		name = "unknown"
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), append(b, '\n'), 0o644)
}

// load reads a stored result.
func load(name string) (*result, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r := &result{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.Version != formatVersion {
		return nil, fmt.Errorf("%s has format version %d, this program reads %d", name, r.Version, formatVersion)
	}
	return r, nil
}
