package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"sheepdog/api"
)

// warnings keeps what nodes warn of, as text.
type warnings struct {
	slog.Handler
	out *bytes.Buffer
}

func newWarnings() *warnings {
	out := new(bytes.Buffer)
	return &warnings{slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelWarn}), out}
}

// TestListGoesWithoutAMemberThatStaysAway: a member that all but the node that is asked can reach
// stays a member. A list of disks waits three seconds for it, and then tells what the others hold.
func TestListGoesWithoutAMemberThatStaysAway(t *testing.T) {
	told := newWarnings()
	why, trace := trial(t, Options{Seed: 3}, func(w *World) error {
		w.opt.Log = told
		w.BootAll()
		w.Format()
		leader := w.leader()
		others := slices.DeleteFunc(w.Up(), func(h *Host) bool { return h == leader })
		b := leader.Node().Backend()
		ctx := context.Background()
		if _, err := b.CreateVDI(ctx, &api.CreateRequest{Name: "v", SizeBytes: 32 << 20, Preallocate: true}); err != nil {
			return err
		}
		asked, away := others[0], others[1]
		list := func() (objects uint64, took time.Duration, err error) {
			began := time.Now()
			vdis, err := asked.Node().Backend().VDIs(ctx, &api.VDIQuery{})
			if err != nil || len(vdis) != 1 {
				return 0, 0, errors.Join(err, fmt.Errorf("%d disks are listed", len(vdis)))
			}
			return vdis[0].OwnObjects, time.Since(began), nil
		}
		if objects, took, err := list(); err != nil || objects != 32 || took > time.Second {
			return errors.Join(err, fmt.Errorf("all are there: %d objects are listed after %v, want 32 at once", objects, took))
		}
		w.net.Cut(asked.Name, away.Name)
		w.net.Cut(away.Name, asked.Name)
		objects, took, err := list()
		if err != nil || objects == 0 || objects >= 32 || took < 3*time.Second || took > 5*time.Second {
			return errors.Join(err, fmt.Errorf("one is away: %d objects are listed after %v, want those of two nodes after 3 s", objects, took))
		}
		if !bytes.Contains(told.out.Bytes(), []byte("members=["+away.Name)) {
			return fmt.Errorf("the log does not name %s:\n%s", away.Name, told.out)
		}
		w.Heal()
		w.Await(10*time.Second, "all objects are listed again", func() error {
			if objects, _, err := list(); err != nil || objects != 32 {
				return errors.Join(err, fmt.Errorf("%d objects", objects))
			}
			return nil
		})
		return w.whole()
	})
	if why != "" {
		t.Errorf("%s\n%s", why, trace)
	}
}
