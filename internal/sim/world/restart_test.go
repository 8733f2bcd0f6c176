package world

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"sheepdog/api"
)

// stopAll ends all nodes as `dog cluster shutdown` at one of them does.
func (w *World) stopAll(by *Host) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	up := w.Up()
	err := by.Node().Backend().Shutdown(ctx)
	for _, h := range up {
		select {
		case <-h.Node().Done():
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("node %d runs", h.Number))
		}
	}
	for _, h := range up {
		h.Leave()
	}
	return err
}

// TestNobodyIsCompleteBeforeTheRestartedAreMembers: the nodes of a cluster that was stopped start
// with the view of before, in which everybody acts for everything. Who asked then was told that nobody
// recovers.
func TestNobodyIsCompleteBeforeTheRestartedAreMembers(t *testing.T) {
	for _, late := range []time.Duration{0, 300 * time.Millisecond, 1500 * time.Millisecond} {
		t.Run(late.String(), func(t *testing.T) {
			why, trace := trial(t, Options{Seed: 3}, func(w *World) error {
				w.BootAll()
				w.Format()
				if err := w.stopAll(w.Hosts()[0]); err != nil {
					return err
				}
				hosts := w.Hosts()
				for _, h := range hosts[:2] {
					go h.Boot()
				}
				time.AfterFunc(late, hosts[2].Boot)
				w.Await(10*time.Second, "three nodes and none recovering", func() error {
					for _, h := range hosts {
						if h.Node() == nil {
							return fmt.Errorf("node %d does not run", h.Number)
						}
					}
					for _, h := range hosts {
						recovering, err := h.Node().Backend().Recovery(h.life())
						nodes, nerr := h.Node().Backend().Nodes(h.life())
						if err := errors.Join(err, nerr); err != nil {
							return err
						}
						if len(nodes) != 3 || len(recovering) > 0 {
							return fmt.Errorf("node %d: %d nodes, %d recovering", h.Number, len(nodes), len(recovering))
						}
					}
					return nil
				})
				return w.whole()
			})
			if why != "" {
				t.Errorf("%s\n%s", why, trace)
			}
		})
	}
}

// TestStopRightAfterARestart: who stopped the cluster while its nodes were not members again stopped
// one node, and was told "wrong node" of the others.
func TestStopRightAfterARestart(t *testing.T) {
	for _, after := range []time.Duration{0, 300, 700, 1000} {
		after *= time.Millisecond
		t.Run(after.String(), func(t *testing.T) {
			why, trace := trial(t, Options{Seed: 3}, func(w *World) error {
				w.BootAll()
				w.Format()
				for range 2 {
					if err := w.stopAll(w.Hosts()[1]); err != nil {
						return err
					}
					w.BootAll()
					time.Sleep(after)
				}
				w.AwaitWhole()
				return nil
			})
			if why != "" {
				t.Errorf("%s\n%s", why, trace)
			}
		})
	}
}

// TestStopAtTheFirstToStart: a node that was just started knows of nobody. A stop there waits
// until it does.
func TestStopAtTheFirstToStart(t *testing.T) {
	why, trace := trial(t, Options{Seed: 3}, func(w *World) error {
		w.BootAll()
		w.Format()
		hosts := w.Hosts()
		if err := w.stopAll(hosts[0]); err != nil {
			return err
		}
		hosts[0].Boot()
		stopped := make(chan error, 1)
		go func() { stopped <- hosts[0].Node().Backend().Shutdown(context.Background()) }()
		time.Sleep(500 * time.Millisecond)
		hosts[1].Boot()
		hosts[2].Boot()
		if err := <-stopped; err != nil {
			return err
		}
		for _, h := range hosts {
			select {
			case <-h.Node().Done():
			case <-time.After(time.Second):
				return fmt.Errorf("node %d runs", h.Number)
			}
			h.Leave()
		}
		return nil
	})
	if why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}

// TestKillRightAfterARestart is the same for one node that is to leave.
func TestKillRightAfterARestart(t *testing.T) {
	why, trace := trial(t, Options{Seed: 3}, func(w *World) error {
		w.BootAll()
		w.Format()
		if err := w.stopAll(w.Hosts()[0]); err != nil {
			return err
		}
		w.BootAll()
		hosts := w.Hosts()
		w.Await(5*time.Second, "the view of before", func() error {
			if hosts[0].Node().Cluster().View() == nil {
				return errors.New("none")
			}
			return nil
		})
		if err := hosts[0].Node().Backend().KillNode(hosts[0].life(), api.NodeRef{ID: 3}); err != nil {
			return err
		}
		<-hosts[2].Node().Done()
		hosts[2].Leave()
		w.AwaitWhole()
		return nil
	})
	if why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}
