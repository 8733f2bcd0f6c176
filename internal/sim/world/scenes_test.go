package world

import (
	"context"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/vdi/directory"
)

// Scenes bring a cluster into the situation in which one kind of fault shows.
// In most of them the first host coordinates, and all hosts have everything.

// powerFails: the power fails everywhere after a flush, and the host of the
// coordinator is the last to come back.
var powerFails = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.powerLoss()
	s.host(2).Boot()
	s.host(3).Boot()
	s.guest(2).read(0, 4)
	s.host(1).Boot()
}}

// writeDuringBackfill: a host comes back and copies what changed; between its
// fetch of a block and the moment it has it in place, a guest writes the block.
var writeDuringBackfill = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.host(3).Kill()
	s.awaitGone(1, 3)
	g.write(0, 4)
	fetching, written := make(chan struct{}, 16), make(chan struct{})
	s.hooks.set(hookSet{fetched: func(by int) {
		if by == 3 {
			fetching <- struct{}{}
			<-written
		}
	}})
	s.host(3).Boot()
	<-fetching
	g.write(0, 4)
	s.hooks.set(hookSet{})
	close(written)
	s.AwaitWhole()
	g.settle()
	g.leave()
	s.guest(3).read(0, 4)
}}

// rottenDisk: all blocks of the coordinator's own disk have rotten.
var rottenDisk = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 16)
	g.flush()
	any := func(sheepdog.ObjectID, sheepdog.LayerID, sheepdog.BlockNo) bool { return true }
	s.host(1).Disk.Rot(s.rng, 16, any)
	g.read(0, 16)
}}

// lonelyWrite: the coordinator is cut off while it writes, and dies.
var lonelyWrite = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.cutOff(1)
	ended := g.begin(0, 4)
	time.Sleep(5 * time.Millisecond)
	s.host(1).Kill()
	<-ended
	s.guest(2).read(0, 4)
}}

// brokenLink: one write to one replica fails, though both hosts live.
var brokenLink = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.hooks.set(hookSet{fails: func(from, to int) bool { return from == 1 && to == 3 }})
	ended := g.begin(0, 4)
	time.Sleep(20 * time.Millisecond)
	s.hooks.set(hookSet{})
	<-ended
	g.settle()
	g.leave()
	s.guest(3).read(0, 4)
}}

// deposedWriter: a coordinator is cut off while it writes; another one takes
// over, and then the link is mended.
var deposedWriter = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.cutOff(1)
	ended := g.begin(0, 4)
	s.awaitGone(2, 1)
	second := s.guest(2)
	second.read(0, 4)
	second.settle()
	g.end() // nobody repeats the write
	s.Heal()
	<-ended
	s.AwaitWhole()
	second.read(0, 4)
	second.leave()
	s.guest(3).read(0, 4)
}}

// readAfterRestart: a host comes back and coordinates, while it may not yet copy
// what it missed.
var readAfterRestart = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.host(3).Kill()
	s.awaitGone(1, 3)
	g.write(0, 4)
	s.recovery(false)
	s.host(3).Boot()
	s.awaitMember(3, 3)
	g.leave()
	s.guest(3).read(0, 4)
	s.recovery(true)
}}

// deposedReader: a coordinator is cut off; another one takes over and writes,
// and the first is asked for the block.
var deposedReader = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.cutOff(1)
	s.awaitGone(2, 1)
	s.guest(2).write(0, 4)
	g.readFor(0, 4, time.Second)
	g.end()
	s.Heal()
}}

// deposedReaderInThePast: the same, and the wall clock of the first goes back.
var deposedReaderInThePast = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 4)
	g.flush()
	s.cutOff(1)
	s.host(1).wall.wrong.Store(int64(-time.Hour))
	s.awaitGone(2, 1)
	s.guest(2).write(0, 4)
	g.readFor(0, 4, time.Second)
	g.end()
	s.Heal()
}}

// halfWritten: a coordinator dies while it writes; one replica has the writes,
// another has not. Both become coordinators in turn.
var halfWritten = scene{play: func(s *stage) {
	g := s.guest(1)
	g.write(0, 8)
	g.flush()
	s.net.Cut(s.host(1).Name, s.host(3).Name)
	first := g.begin(0, 4)
	time.Sleep(time.Millisecond)
	second := g.begin(4, 4)
	time.Sleep(5 * time.Millisecond)
	s.host(1).Kill()
	<-first
	<-second
	s.net.HealAll()
	at2 := s.guest(2)
	at2.read(0, 8)
	at2.leave()
	s.guest(3).read(0, 8)
}}

// unheard has a guest at the coordinator and one at a far gateway, whose write is
// done, but which does not hear of that: ended is closed when it has.
func (s *stage) unheard(coordinator, far int) (g *actor, ended <-chan struct{}) {
	g = s.guest(coordinator)
	g.write(0, 4)
	g.flush()
	f := s.guest(far)
	f.read(0, 4) // it knows the coordinator now
	s.net.Cut(g.host.Name, f.host.Name)
	ended = f.begin(0, 4)
	time.Sleep(5 * time.Millisecond)
	s.cutOff(far)
	return g, ended
}

// overtake kills a coordinator; its successor writes what somebody who was cut off
// has written, and then that one may repeat it.
func (s *stage) overtake(coordinator, successor int, ended <-chan struct{}) {
	s.host(coordinator).Kill()
	s.awaitGone(successor, coordinator)
	next := s.guest(successor)
	next.read(0, 4)
	next.write(0, 4)
	next.read(0, 4)
	if next.ctx.Err() != nil {
		s.t.Fatalf("node %d has not taken the VDI over in time: the scene does not play", successor)
	}
	select {
	case <-ended:
		s.t.Fatalf("the write that is to be repeated is over: the scene does not play")
	default:
	}
	s.Heal()
	<-ended
	next.read(0, 4)
}

// lostReply: a gateway's write is done, but before it hears of that the
// coordinator dies; until it asks the next one somebody else has written.
var lostReply = scene{nodes: 5, play: func(s *stage) {
	hold, others := s.acting()
	_, ended := s.unheard(hold[0], others[0])
	s.overtake(hold[0], hold[1], ended)
}}

// movedBeforeTheRetry: as lostReply, but the VDI is given another redundancy before
// the coordinator dies, so that the next one serves another family, in which nobody
// ever made the write.
var movedBeforeTheRetry = scene{nodes: 5, play: func(s *stage) { s.moveBeforeTheRetry(false) }}

// flattenedBeforeTheRetry: the same, and the VDI has let go of the family in which the
// write was made.
var flattenedBeforeTheRetry = scene{nodes: 5, play: func(s *stage) { s.moveBeforeTheRetry(true) }}

func (s *stage) moveBeforeTheRetry(flatten bool) {
	hold, others := s.acting()
	// Of fewer copies the last would be lost with two nodes.
	four := sheepdog.Policy{Copies: 4}
	if _, err := s.host(1).Node().Backend().CreateVDI(context.Background(), &api.CreateRequest{Name: "other", SizeBytes: 1 << 20, Copies: &four}); err != nil {
		s.t.Fatalf("create: %v", err)
	}
	g, ended := s.unheard(hold[0], others[0])
	g.read(0, 4) // the write is there
	vdis := g.host.Node().VDIs()
	moved, err := vdis.Alter(g.ctx, directory.AlterPolicy{Name: stageDisk, Policy: four})
	if err != nil {
		s.t.Fatalf("alter: %v", err)
	}
	if flatten {
		if err := g.vol.CopyUp(g.ctx, 0); err != nil {
			s.t.Fatalf("copy up: %v", err)
		}
		if err := vdis.Flatten(g.ctx, stageDisk, moved.Layer); err != nil {
			s.t.Fatalf("flatten: %v", err)
		}
	}
	s.overtake(hold[0], hold[1], ended)
}

// A gateway that was cut off repeats a write after its VDI was given another
// redundancy and the node that did so died: it is not applied a second time, over
// what was written meanwhile.
func TestRetryAfterAnAlterRunsOnce(t *testing.T) {
	if why, trace := movedBeforeTheRetry.run(t, nil); why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}

// The same when the VDI has let go of its former family, which no takeover asks then.
func TestRetryAfterAFlattenRunsOnce(t *testing.T) {
	if why, trace := flattenedBeforeTheRetry.run(t, nil); why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}
