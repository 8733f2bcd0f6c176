package show

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/api"
)

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0.0 MB", 52428: "0.0 MB", 52429: "0.1 MB", 1 << 20: "1.0 MB", 4 << 20: "4.0 MB", 12 << 20: "12 MB", 10<<20 - 1: "10.0 MB",
		1000 << 20: "1000 MB", 1024 << 20: "1.0 GB", 4 << 30: "4.0 GB", 45 << 30: "45 GB", 3 << 39: "1.5 TB", 16 << 50: "16 PB", math.MaxUint64: "16 EB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "4095": 4095, "1B": 1, "1b": 1, "1.5G": 3 << 29, "1.5g": 3 << 29, "4K": 4096, ".5M": 1 << 19, "2.T": 2 << 40, "16P": 16 << 50,
		"18446744073709551615": math.MaxUint64, "0.1": 0, "1.9B": 1, "9007199254740993": 9007199254740993, "16383P": 16383 << 50,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "G", "12X", "1GB", "1 G", "-1", "+1", "1e3", "0x10", "inf", "NaN", ".", ".K", "1.2.3", "1_000", "16384P", "18446744073709551616", "99999999999999999999999P", "1é", "1\x00"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
	}
}

// FuzzParseSize: no input panics, and a whole number of bytes is never changed.
func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1", "1.5G", "16384P", "", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if again, err := ParseSize(fmt.Sprint(n)); err != nil || again != n {
			t.Errorf("%q is %d, which is read as %d, %v", s, n, again, err)
		}
	})
}

func TestBar(t *testing.T) {
	for _, tt := range []struct {
		done, total uint64
		want        string
	}{
		{0, 0, "\r100.0 % [" + strings.Repeat("=", 50) + "]"},
		{0, 10, "\r  0.0 % [>" + strings.Repeat(" ", 49) + "]"},
		{5, 10, "\r 50.0 % [" + strings.Repeat("=", 25) + ">" + strings.Repeat(" ", 24) + "]"},
		{20, 10, "\r100.0 % [" + strings.Repeat("=", 50) + "]"},
	} {
		if got := Bar(tt.done, tt.total); got != tt.want {
			t.Errorf("Bar(%d, %d) = %q", tt.done, tt.total, got)
		}
	}
}

// snap and work are members of a family in TestTree.
func snap(name string, id, parent api.VID, number uint32) api.VDI {
	return api.VDI{Name: name, ID: id, ParentID: parent, Snapshot: true, SnapshotID: number, Created: time.Date(2026, 1, 2, 3, int(number), 0, 0, time.UTC)}
}

func work(name string, id, parent api.VID) api.VDI {
	return api.VDI{Name: name, ID: id, ParentID: parent}
}

func TestTree(t *testing.T) {
	vdis := []api.VDI{
		work("test", 13, 12), snap("test", 10, 0, 1), snap("test", 11, 10, 2), snap("test", 12, 11, 3),
		snap("test2", 20, 0, 1), snap("test2", 21, 20, 2), snap("test2", 22, 20, 3), work("test2", 23, 22),
		work("clone", 30, 20),
		snap("orphan", 40, 39, 2), work("orphan", 41, 39),
		snap("w", 50, 0, 1), snap("w", 51, 50, 2), snap("w", 52, 51, 3), snap("w", 53, 51, 4), snap("w", 54, 50, 5), work("w", 55, 50),
		work("self", 60, 60),
	}
	want := `test---[2026-01-02 03:01]---[2026-01-02 03:02]---[2026-01-02 03:03]---(you are here)
test2---[2026-01-02 03:01]-+-[2026-01-02 03:02]
                           ` + "`" + `-[2026-01-02 03:03]---(you are here)
clone---(you are here)
orphan---[2026-01-02 03:02]
orphan---(you are here)
w---[2026-01-02 03:01]-+-[2026-01-02 03:02]-+-[2026-01-02 03:03]
                       |                    ` + "`" + `-[2026-01-02 03:04]
                       |-[2026-01-02 03:05]
                       ` + "`" + `-(you are here)
self---(you are here)
`
	if got := Tree(vdis, TreeStyle{Zone: time.UTC}); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := Tree(vdis[:1], TreeStyle{Zone: time.UTC, Bold: true}); got != "test---\x1b[1m(you are here)\x1b[m\n" {
		t.Errorf("bold: %q", got)
	}
}

// TestDeepTree: a chain of any depth is one line, made without recursion.
func TestDeepTree(t *testing.T) {
	vdis := []api.VDI{work("v", 100000, 99999)}
	for i := range 99999 {
		vdis = append(vdis, snap("v", api.VID(i+1), api.VID(i), uint32(i+1)))
	}
	got := Tree(vdis, TreeStyle{Zone: time.UTC})
	if strings.Count(got, "\n") != 1 || strings.Count(got, "[") != 99999 {
		t.Errorf("%d lines, %d snapshots", strings.Count(got, "\n"), strings.Count(got, "["))
	}
}

// What df called usable was the free space over the number of copies: with a small zone,
// or a full one, most of it could not be written.
func TestUsableSpaceIsThatOfTheZones(t *testing.T) {
	node := func(zone sheepdog.Zone, used, free uint64) api.NodeCapacity {
		return api.NodeCapacity{Node: api.Node{Zone: zone}, UsedBytes: used, FreeBytes: free}
	}
	cl := &api.Cluster{}
	cl.Config.Policy.Copies = 3
	for third, want := range map[api.NodeCapacity]uint64{node(3, 0, 1000): 1000, node(3, 0, 10): 10, node(3, 990, 0): 0, node(2, 0, 1000): 1000} {
		c := &api.Capacities{Nodes: []api.NodeCapacity{node(1, 0, 1000), node(2, 0, 1000), third}}
		if got := Filesystem(cl, c, nil).UsableBytes; got != want {
			t.Errorf("beside %+v: %d bytes are usable, want %d", third, got, want)
		}
	}
}
