package node

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"sheepdog"
	"sheepdog/objectstore"
)

// fullEngine is an engine whose store can be said to be full.
type fullEngine struct {
	sheepdog.Engine
	usage atomic.Pointer[sheepdog.Usage]
}

func (e *fullEngine) Usage() (sheepdog.Usage, error) { return *e.usage.Load(), nil }

// A node that filled up within the last half minute took new VDIs, and `cluster
// info` never warned of full nodes.
func TestFullNodeRefusesNewVDIsAtOnceAndWarns(t *testing.T) {
	e := &fullEngine{Engine: objectstore.NewMemory()}
	e.usage.Store(&sheepdog.Usage{Used: 1 << 20, Free: 99 << 20})
	n := startFormatted(t, Config{Engine: e, NoNBD: true, Identity: 7})
	if err := n.room(); err != nil {
		t.Fatalf("an empty node is full: %v", err)
	}
	e.usage.Store(&sheepdog.Usage{Used: 96 << 20, Free: 4 << 20})
	if err := n.room(); !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Errorf("a full node takes new VDIs: %v", err)
	}
	if w := strings.Join(n.warnings(n.cluster.View()), "\n"); !strings.Contains(w, "is full: it has used 100663296 of 104857600 bytes") {
		t.Errorf("no warning of a full node: %q", w)
	}
}

func TestOverRatio(t *testing.T) {
	for _, c := range []struct {
		used, capacity uint64
		want           bool
	}{{0, 0, false}, {0, 1 << 40, false}, {94 << 30, 100 << 30, false}, {95 << 30, 100 << 30, true}, {1 << 63, 1 << 63, true}} {
		if got := overRatio(c.used, c.capacity, 95); got != c.want {
			t.Errorf("%d of %d: %v", c.used, c.capacity, got)
		}
	}
}
