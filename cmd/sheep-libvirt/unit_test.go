package main

import (
	"os"
	"strings"
	"testing"
)

// Where the local sheep is not up yet, sheep-libvirt ends at once, and systemd gave it up
// after the fifth time, within seconds: all of libvirt was gone from its path until
// somebody started the service by hand.
func TestServiceIsNotGivenUp(t *testing.T) {
	b, err := os.ReadFile("../../packaging/libvirt/sheep-libvirt.service")
	if err != nil {
		t.Fatal(err)
	}
	unit, _, _ := strings.Cut(string(b), "[Service]")
	if !strings.Contains(unit, "\nStartLimitIntervalSec=0\n") || !strings.Contains(string(b), "\nRestart=on-failure\n") {
		t.Errorf("the service is given up after a few failures:\n%s", b)
	}
}
