package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sheepdog/internal/program"
	"sheepdog/tests/internal/vm"
)

// end kills what still runs.
func (d *demo) end() error {
	err := d.guest.PowerOff()
	for _, s := range d.sheep {
		err = errors.Join(err, s.proc.Kill())
	}
	return err
}

// clear removes the run's directory; after a failure all but the logs.
func (d *demo) clear(all bool) error {
	if all {
		return os.RemoveAll(d.dir)
	}
	entries, err := os.ReadDir(d.dir)
	for _, e := range entries {
		if e.Name() != "log" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(d.dir, e.Name())))
		}
	}
	return err
}

// logTail is how much of each log is shown after a failure, in bytes.
const logTail = 3000

func (d *demo) showLogs(w io.Writer) {
	paths, err := filepath.Glob(filepath.Join(d.dir, "log", "*"))
	for _, p := range paths {
		b, e := os.ReadFile(p)
		err = errors.Join(err, e)
		fmt.Fprintf(w, "\n==> the end of %s\n%s\n", p, strings.ToValidUTF8(string(program.Tail(b, logTail)), "?"))
	}
	if err != nil {
		fmt.Fprintln(w, "logs:", err)
	}
	fmt.Fprintf(w, "\nThe logs stay in %s.\n", filepath.Join(d.dir, "log"))
}

// explain tells how to go on with what was left running.
func (d *demo) explain(w io.Writer) {
	m := &vm.Machine{Accel: d.accel, Args: d.nbdDisk(d.gateway(), "clone0")}
	dog := filepath.Join(d.opt.bin, "dog")
	fmt.Fprintf(w, "KEEP=1: the cluster and the guest go on.\n\n")
	fmt.Fprintf(w, "  export SHEEPDOG_DOG_PORT=%d\n", d.gateway().port)
	for _, words := range []string{"node list", "vdi list", "vdi tree", "cluster check"} {
		fmt.Fprintf(w, "  %s %s\n", dog, words)
	}
	fmt.Fprintf(w, "\nThe guest's console (Debian package socat; end with Ctrl-C):\n  socat -,raw,echo=0,escape=3 UNIX-CONNECT:%s\n", d.guest.Socket)
	fmt.Fprintf(w, "\nAnother guest, on a clone, its console here:\n  qemu-system-x86_64 %s -serial mon:stdio\n", strings.Join(m.QEMUArgs(), " "))
	fmt.Fprintf(w, "\nTo end all, then remove %s:\n  kill %d; %s cluster shutdown\n", d.dir, d.guest.Proc.PID(), dog)
}
