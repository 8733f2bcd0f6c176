package node

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/api"
)

func capacityOf(id sheepdog.NodeID, vnodes uint16, used, free uint64) api.NodeCapacity {
	return api.NodeCapacity{Node: api.Node{ID: id, VNodes: vnodes}, UsedBytes: used, FreeBytes: free}
}

// A node of average space has the default weight, a gateway none.
func TestWeigh(t *testing.T) {
	got, err := weigh([]api.NodeCapacity{capacityOf(1, 128, 10, 90), capacityOf(2, 5, 0, 200), capacityOf(3, 128, 0, 300), capacityOf(4, 0, 0, 0), capacityOf(5, 128, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	want := []uint16{85, 171, 256, 1} // of an average of 150 bytes
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range got {
		if w.VNodes != want[i] {
			t.Errorf("node %s has weight %d, want %d", w.ID, w.VNodes, want[i])
		}
	}
	silent := capacityOf(1, 128, 0, 0)
	silent.Error = "no answer"
	if _, err := weigh([]api.NodeCapacity{silent, capacityOf(2, 128, 1, 1)}); !errors.Is(err, sheepdog.ErrUnreachable) {
		t.Errorf("a silent node: %v", err)
	}
	if _, err := weigh([]api.NodeCapacity{capacityOf(1, 0, 0, 0)}); !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Errorf("gateways only: %v", err)
	}
}

// What is set is what is read, for all names.
func TestLogLevel(t *testing.T) {
	b := backend{&Node{cfg: Config{LogLevel: new(slog.LevelVar)}}}
	for _, name := range api.LogLevels() {
		if err := b.SetLogLevel(t.Context(), &api.LogLevel{Level: name}); err != nil {
			t.Fatal(err)
		}
		if l, err := b.LogLevel(t.Context()); err != nil || l.Level != name {
			t.Errorf("%s became %v, %v", name, l, err)
		}
	}
	b = backend{&Node{}}
	if _, err := b.LogLevel(t.Context()); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("without a level: %v", err)
	}
}

func TestCounters(t *testing.T) {
	var c counters
	c.begin(&c.write)
	c.begin(&c.read)
	c.begin(&c.other)
	c.end(&c.write, time.Time{}, nil, 10)
	c.end(&c.read, time.Time{}, errors.New("failed"), 20)
	want := api.RequestStats{Active: 1, Total: 3, Write: 1, Read: 1, WrittenBytes: 10}
	if got := c.document(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// A layer without a snapshot of its own counts for the nearest one above.
func TestOwners(t *testing.T) {
	levels := []level{{layer: 9}, {layer: 7}, {layer: 4}, {layer: 2}}
	owners := map[sheepdog.LayerID]sheepdog.VID{9: 0x99, 4: 0x44}
	for i, want := range []api.VID{0x99, 0x99, 0x44, 0x44} {
		if got := ownerOf(levels, i, owners); got != want {
			t.Errorf("level %d belongs to %s, want %s", i, got, want)
		}
	}
	if got := onlyInOne(levels, levels[2:]); len(got) != 2 || got[0].layer != 9 || got[1].layer != 7 {
		t.Errorf("%+v", got)
	}
}
