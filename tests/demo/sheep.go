package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sheepdog/internal/program"
)

// sheep is one node of the demo's cluster.
type sheep struct {
	port, zone int
	proc       *program.Process
}

func (d *demo) meta(s *sheep) string   { return filepath.Join(d.dir, strconv.Itoa(s.port)) }
func (d *demo) socket(s *sheep) string { return filepath.Join(d.meta(s), "nbd.sock") }
func (d *demo) log(s *sheep) string {
	return filepath.Join(d.dir, "log", fmt.Sprintf("sheep.%d", s.port))
}

func (d *demo) uri(s *sheep, export string) string {
	return "nbd+unix:///" + export + "?socket=" + d.socket(s)
}

// startLimit is how long a sheep may take until it answers.
const startLimit = 30 * time.Second

// start runs the process of a sheep and waits until it answers.
func (d *demo) start(ctx context.Context, s *sheep) error {
	p, err := program.Start(fmt.Sprintf("sheep on port %d", s.port), d.log(s), d.opt.keep, filepath.Join(d.opt.bin, "sheep"), "-f",
		"-p", strconv.Itoa(s.port), "-z", strconv.Itoa(s.zone), "-c", "local:"+filepath.Join(d.dir, "local"), "--nbd", "none",
		"-l", "dst=stdout", d.meta(s))
	if err != nil {
		return err
	}
	s.proc = p
	return program.Eventually(ctx, startLimit, p.Name+" answers", func() error {
		if err := p.Check(); err != nil {
			return err
		}
		_, err := d.dog(ctx, s, "node", "list", "-r")
		return err
	})
}

// dog runs a command at a sheep and returns what it prints; it must succeed.
func (d *demo) dog(ctx context.Context, s *sheep, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return program.Output(ctx, filepath.Join(d.opt.bin, "dog"), append(args, "-p", strconv.Itoa(s.port))...)
}

// dogRows is dog with the output in lines.
func (d *demo) dogRows(ctx context.Context, s *sheep, args ...string) ([]string, error) {
	out, err := d.dog(ctx, s, args...)
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' }), err
}

// info is what the demo reads of `dog cluster info`.
type info struct {
	State  string
	Epoch  int
	Config struct{ Copies string }
}

func (d *demo) info(ctx context.Context, s *sheep) (info, error) {
	var c info
	out, err := d.dog(ctx, s, "cluster", "info", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &c)
	}
	return c, err
}

// members wants n nodes in the view of every living sheep, in an epoch after
// the given one.
func (d *demo) members(ctx context.Context, limit time.Duration, n, after int) error {
	return program.Eventually(ctx, limit, fmt.Sprintf("every sheep sees %d nodes after epoch %d", n, after), func() error {
		for _, s := range d.living() {
			rows, err := d.dogRows(ctx, s, "node", "list", "-r")
			if err != nil {
				return err
			}
			if len(rows) != n {
				return fmt.Errorf("port %d sees %d", s.port, len(rows))
			}
			if after == 0 {
				continue // before format there is no epoch
			}
			if c, err := d.info(ctx, s); err != nil || c.Epoch <= after {
				return fmt.Errorf("port %d is in epoch %d: %v", s.port, c.Epoch, err)
			}
		}
		return nil
	})
}

// recovered wants no node to be recovering, as every living sheep sees it.
func (d *demo) recovered(ctx context.Context, limit time.Duration) error {
	return program.Eventually(ctx, limit, "recovery ends", func() error {
		for _, s := range d.living() {
			rows, err := d.dogRows(ctx, s, "node", "recovery", "-r")
			if err != nil {
				return err
			}
			if len(rows) != 0 {
				return fmt.Errorf("port %d: %s", s.port, strings.Join(rows, "; "))
			}
		}
		return nil
	})
}

func (d *demo) living() []*sheep {
	var out []*sheep
	for _, s := range d.sheep {
		if s.proc.Alive() {
			out = append(out, s)
		}
	}
	return out
}
