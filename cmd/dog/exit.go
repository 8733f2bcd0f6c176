package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"sheepdog"
	"sheepdog/api"
)

// Exit codes, as scripts know them. exitExists and exitMissing belong to
// commands on attributes only.
const (
	exitOK      = 0
	exitFailed  = 1
	exitSystem  = 2 // the cluster or a host cannot be reached or cannot serve
	exitExists  = 3
	exitNoSpace = 4 // no space left
	exitMissing = 5
	exitUsage   = 64  // the command line is wrong
	exitRefused = 255 // a node refused a setting; scripts know it so
)

var errTimeout = errors.New("gave up: the time of --timeout is over; the outcome is unknown")

// failure is an error with its exit code. A usage failure is followed by the
// usage of its command.
type failure struct {
	code  int
	usage bool
	err   error // nil: everything was said already
}

func (f *failure) Error() string {
	if f.err == nil {
		return ""
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// badUsage is a wrong command line.
func badUsage(err error) error { return &failure{code: exitUsage, err: err} }

// badArgument is a wrong argument of a known command; its usage is printed.
func badArgument(format string, args ...any) error {
	return &failure{code: exitUsage, usage: true, err: fmt.Errorf(format, args...)}
}

// failed puts what dog tried in front of why it failed.
func failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("Failed to "+format+": %w", append(args, err)...)
}

// report prints an error with what to do about it, and returns the exit code.
func (d *dog) report(err error) int {
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	var connect *api.ConnectError
	if errors.As(err, &connect) {
		return d.reportConnect(connect)
	}
	if text := err.Error(); text != "" {
		d.talk("%s", text)
	}
	var f *failure
	var e *api.Error
	switch {
	case errors.As(err, &f) && f.code == exitUsage && !f.usage && !strings.Contains(f.Error(), "\n"):
		d.talk("Try 'dog --help' for more information.")
	case errors.As(err, &e) && e.Hint != "":
		d.talk("%s", upper(e.Hint))
	}
	return code
}

func (d *dog) reportConnect(e *api.ConnectError) int {
	var dns *net.DNSError
	if errors.As(e, &dns) {
		d.talk("Invalid ip address %s: %v", d.address, dns)
		return exitFailed
	}
	reason := e.Err.Error()
	var errno syscall.Errno
	if errors.As(e, &errno) {
		reason = upper(errno.Error())
	}
	d.talk("failed to connect to %s: %s", e.Addr, reason)
	d.talk("Is sheep running there? Choose another node with -a and -p.")
	return exitSystem
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func exitCode(err error) int {
	var f *failure
	var e *api.Error
	switch {
	case errors.As(err, &f):
		return f.code
	case errors.Is(err, errTimeout):
		return exitSystem
	case errors.Is(err, sheepdog.ErrNoSpace):
		return exitNoSpace
	case errors.As(err, &e) && e.Status >= 500, errors.Is(err, sheepdog.ErrUnreachable):
		return exitSystem
	}
	return exitFailed
}
