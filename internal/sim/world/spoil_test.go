package world

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
)

// spoiledObject: the metadata of all objects of one host are malformed, and somebody finds
// out.
var spoiledObject = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 16)
	g.flush()
	s.host(1).Disk.Spoil(s.rng, 10)
	g.read(0, 16)
	g.write(4, 4)
	s.awaitSound()
	g.read(0, 16)
}}

// spoiledObjectAfterALoss: the same, and then the power of all hosts fails.
var spoiledObjectAfterALoss = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 16)
	g.flush()
	s.host(1).Disk.Spoil(s.rng, 10)
	s.powerLoss()
	s.BootAll()
	s.guest(2).read(0, 16)
	s.awaitSound()
}}

// spoiledObjectOfTheFirst: the same, and of those who act for the object the one that has it
// spoiled is the first to come back.
var spoiledObjectOfTheFirst = scene{nodes: 5, play: func(s *stage) {
	hold, others := s.acting()
	g := s.guest(hold[0])
	g.write(0, 16)
	g.flush()
	s.host(hold[0]).Disk.Spoil(s.rng, 10)
	s.powerLoss()
	for _, n := range append(others, hold[0]) {
		s.host(n).Boot()
	}
	time.Sleep(3 * time.Second)
	s.BootAll()
	s.guest(others[0]).read(0, 16)
	s.awaitSound()
}}

// awaitSound waits until nothing on any disk is rotten or spoiled.
func (s *stage) awaitSound() {
	s.Await(20*time.Second, "all disks are sound", func() error {
		for _, h := range s.Hosts() {
			if err := h.Disk.Sound(); err != nil {
				return fmt.Errorf("host %d: %w", h.Number, err)
			}
		}
		return nil
	})
}

func TestSpoiledObjectIsFetchedAnew(t *testing.T) {
	if why, trace := spoiledObject.run(t, nil); why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}

// Bug: after a loss of power of all nodes a partition with a spoiled object was never compared,
// and did not serve, until the node that had it was wiped: it was told once, when there was no
// view yet.
func TestSpoiledObjectAfterALossOfAllPower(t *testing.T) {
	if why, trace := spoiledObjectAfterALoss.run(t, nil); why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}

// Bug: a node with a spoiled object counted as complete after a loss of power of all nodes, and
// let go the others that acted with it and were late: nobody served the object any more.
func TestSpoiledObjectDoesNotOutvoteLateReplicas(t *testing.T) {
	if why, trace := spoiledObjectOfTheFirst.run(t, nil); why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}

// Bug: one spoiled strip kept a node from telling which strips it has, and so every node from
// making any strip of its layer anew.
func TestSpoiledStripIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodedWorld(t)
		defer w.Close()
		w.write("vm", 0, codedSize)
		w.settled()
		if n := w.Hosts()[3].Disk.Spoil(w.rng, 3); n != 3 {
			t.Fatalf("%d strips were spoiled", n)
		}
		w.look(w.Up()[0])
		w.Hosts()[5].Kill()
		w.Hosts()[5].Disk.Wreck()
		w.Hosts()[5].Boot()
		w.AwaitWhole()
		w.settled()
		if err := w.Hosts()[3].Disk.Sound(); err != nil {
			t.Error(err)
		}
		var strips int
		for _, e := range w.Hosts()[5].Disk.Entries() {
			if _, coded := w.Up()[0].Node().Directory().Coded(e.Layer); coded && e != (sheepdog.ListEntry{}) {
				strips++
			}
		}
		if strips == 0 {
			t.Error("nobody made the strips of a host with a new disk")
		}
		w.look(w.Up()[1])
	})
}
