package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc; Linux shows 100 a second on every
// architecture that Go runs on.
const tick = 10 * time.Millisecond

// cpuOf is the user and system time that processes have used, with their threads.
func cpuOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		t, err := parseStat(b)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum += t
	}
	return sum, nil
}

// parseStat takes utime and stime, fields 14 and 15, from a stat file. The
// command, field 2, may hold anything, also brackets.
func parseStat(b []byte) (time.Duration, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, errors.New("no command in it")
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 13 {
		return 0, errors.New("too short")
	}
	var sum uint64
	for _, s := range f[11:13] {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}

// machine is what all CPUs together did since the start of the machine.
type machine struct{ idle, total time.Duration }

// busySince is the time that CPUs have not been idle since an earlier look.
func (m machine) busySince(before machine) time.Duration {
	return (m.total - m.idle) - (before.total - before.idle)
}

func readMachine() (machine, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}, err
	}
	return parseMachine(string(b))
}

// parseMachine reads the first line of /proc/stat: user nice system idle iowait
// irq softirq steal, and guest times, which user has already.
func parseMachine(text string) (machine, error) {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return machine{}, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var m machine
	for i, s := range f[1:9] {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return machine{}, fmt.Errorf("/proc/stat: %w", err)
		}
		m.total += time.Duration(n) * tick
		if i == 3 || i == 4 {
			m.idle += time.Duration(n) * tick
		}
	}
	return m, nil
}
