package main

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"

	"sheepdog/internal/program"
)

// system is something that serves disks, by NBD or as RBD images. Every one has a disk, of the
// plan's size, and can make clones of its content after the prefill.
type system interface {
	start(ctx context.Context) error
	// disk is the URI of the disk.
	disk() string
	// freeze makes the disk's content the base of clones.
	freeze(ctx context.Context) error
	// clone is the URI of a clone; the next call ends its life.
	clone(ctx context.Context) (string, error)
	// pids are the processes whose CPU time counts.
	pids() []int
	stop() error
}

// programs are what systems need beside our own binaries.
var programs = map[string]string{"sheep": "", "other": "", "nbdkit": "nbdkit", "qemu-nbd": "qemu-nbd", "disk": "", "ceph": "ceph-osd"}

func systemNames() []string { return []string{"sheep", "other", "nbdkit", "qemu-nbd", "disk", "ceph"} }

// newSystem makes a system with its data in dir, which exists.
func newSystem(name, dir string, p *plan) system {
	switch name {
	case "nbdkit":
		return &local{dir: dir, size: p.size, serve: serveNbdkit}
	case "qemu-nbd":
		return &local{dir: dir, size: p.size, serve: serveQemu}
	case "disk":
		return &disk{file: filepath.Join(dir, "stream")}
	case "ceph":
		return newCeph(dir, p)
	case "other":
		return newOurs(dir, p.other, p.size)
	}
	return newOurs(dir, p.bin, p.size)
}

// picky is a system that does not do all jobs.
type picky interface{ does(j job) bool }

// disk is a file that is written past the host's memory, in a row: what the disk
// takes, of which each of three copies on it has a third.
type disk struct{ file string }

func (d *disk) start(context.Context) error           { return nil }
func (d *disk) disk() string                          { return "file:" + d.file }
func (d *disk) freeze(context.Context) error          { return nil }
func (d *disk) clone(context.Context) (string, error) { return d.disk(), nil }
func (d *disk) pids() []int                           { return nil }
func (d *disk) stop() error                           { return nil }
func (d *disk) does(j job) bool                       { return j.name == "seqw1m-q8" }

// serveNbdkit is the command that serves a file on a unix socket.
func serveNbdkit(file, format, socket string) (string, []string) {
	if format == "qcow2" { // nbdkit has no overlays in a file; its clone is a copy
		panic("nbdkit serves raw files")
	}
	return "nbdkit", []string{"-f", "-U", socket, "file", file}
}

func serveQemu(file, format, socket string) (string, []string) {
	return "qemu-nbd", []string{"-t", "-e", "4", "-f", format, "--cache=writeback", "--discard=unmap", "-k", socket, file}
}

// local is a program that serves files: one copy, no checksums, no network. It is
// the machine's limit. Its clone is an overlay with QEMU, and the disk itself with
// nbdkit.
type local struct {
	dir   string
	size  int64
	serve func(file, format, socket string) (server string, args []string)

	main, overlay *program.Process
	clones        int
}

func (l *local) path(name string) string { return filepath.Join(l.dir, name) }

func uri(socket, export string) string { return "nbd+unix:///" + export + "?socket=" + socket }

func (l *local) start(ctx context.Context) error {
	if _, err := output(ctx, "truncate", "-s", strconv.FormatInt(l.size, 10), l.path("disk")); err != nil {
		return err
	}
	var err error
	l.main, err = l.spawn(ctx, "disk", "raw", "sock")
	return err
}

func (l *local) spawn(ctx context.Context, file, format, socket string) (*program.Process, error) {
	server, args := l.serve(l.path(file), format, l.path(socket))
	p, err := program.Start(server, l.path("log"), false, server, args...)
	if err != nil {
		return nil, err
	}
	return p, p.WaitSocket(ctx, l.path(socket))
}

func (l *local) disk() string { return uri(l.path("sock"), "") }

func (l *local) freeze(context.Context) error { return nil }

// overlays is whether clones are overlays.
func (l *local) overlays() bool { return l.main.Name == "qemu-nbd" }

func (l *local) clone(ctx context.Context) (string, error) {
	if !l.overlays() {
		return l.disk(), nil
	}
	if l.overlay != nil {
		if err := l.overlay.Stop(); err != nil {
			return "", err
		}
	}
	if _, err := output(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", l.path("disk"), "-F", "raw", l.path("overlay")); err != nil {
		return "", err
	}
	l.clones++
	socket := "sock" + strconv.Itoa(l.clones)
	var err error
	l.overlay, err = l.spawn(ctx, "overlay", "qcow2", socket)
	return uri(l.path(socket), ""), err
}

func (l *local) pids() []int {
	out := []int{l.main.PID()}
	if l.overlay != nil {
		out = append(out, l.overlay.PID())
	}
	return out
}

func (l *local) stop() error {
	var errs []error
	for _, p := range []*program.Process{l.overlay, l.main} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	return errors.Join(errs...)
}
