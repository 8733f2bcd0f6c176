package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"sheepdog/internal/program"
)

// Console talks to the shell on a guest's serial line. Other programs write to
// it as well, the kernel among them, so that nothing is believed but markers:
// <<ID:...>> with an ID of this run, which no echo of a command contains.
type Console struct {
	conn     net.Conn
	ended    chan struct{} // closed when the reader has ended
	patience time.Duration // of Greet, with one question

	mu    sync.Mutex
	lines []Line        // guarded by mu
	err   error         // guarded by mu: why the reader ended
	more  chan struct{} // guarded by mu: closed at the next change
	turn  int           // number of the last command; used by one goroutine
}

// Line is one line of the console and when it was complete.
type Line struct {
	Text string
	At   time.Time
}

// maxLine bounds a line, in bytes; longer ones are cut.
const maxLine = 16 << 10

// NewConsole reads from conn until it is closed.
func NewConsole(conn net.Conn) *Console {
	c := &Console{conn: conn, ended: make(chan struct{}), more: make(chan struct{}), patience: 10 * time.Second}
	go c.read()
	return c
}

// Close ends the reader and waits for it.
func (c *Console) Close() {
	c.conn.Close()
	<-c.ended
}

func (c *Console) read() {
	defer close(c.ended)
	var part []byte
	buf := make([]byte, 4096)
	for {
		n, err := c.conn.Read(buf)
		for _, b := range buf[:n] {
			if b != '\n' && len(part) < maxLine {
				part = append(part, b)
				continue
			}
			c.add(string(part), nil)
			part = part[:0]
		}
		if err != nil {
			c.add(string(part), err)
			return
		}
	}
}

func (c *Console) add(text string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, Line{strings.TrimSuffix(text, "\r"), time.Now()})
	c.err = err
	close(c.more)
	c.more = make(chan struct{})
}

// Position is where a reader stands in the lines.
type Position int

// Here is the position after all lines so far.
func (c *Console) Here() Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Position(len(c.lines))
}

// ErrClosed is returned when the other side hung up.
var ErrClosed = errors.New("the console was closed; has QEMU ended?")

// Next waits for the line at p and moves p behind it.
func (c *Console) Next(ctx context.Context, p *Position) (Line, error) {
	for {
		c.mu.Lock()
		lines, err, more := c.lines, c.err, c.more
		c.mu.Unlock()
		if int(*p) < len(lines) {
			*p++
			return lines[*p-1], nil
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return Line{}, fmt.Errorf("%w: %w", ErrClosed, err)
			}
			return Line{}, ErrClosed
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Line{}, context.Cause(ctx)
		}
	}
}

// Find waits for a line that matches, from p on, and returns its submatches.
func (c *Console) Find(ctx context.Context, p *Position, re *regexp.Regexp) ([]string, error) {
	for {
		l, err := c.Next(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("waiting for %s: %w", re, err)
		}
		if m := re.FindStringSubmatch(l.Text); m != nil {
			return m, nil
		}
	}
}

// Saw reports whether any line so far matches.
func (c *Console) Saw(re *regexp.Regexp) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.lines, func(l Line) bool { return re.MatchString(l.Text) })
}

// Send types one line.
func (c *Console) Send(text string) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	_, err := c.conn.Write([]byte(text + "\n"))
	return err
}

var hello = regexp.MustCompile(`<<hello-\d+>>`)

// maxPatience bounds how long Greet waits between two questions.
const maxPatience = time.Minute

// Greet finds a shell behind the console and puts a quiet one in its place. The
// login may still throw input away, so it is asked until it answers, more and
// more seldom: on a busy host an answer may be to a question of long ago.
func (c *Console) Greet(ctx context.Context) error {
	p := c.Here()
	for patience := c.patience; ; patience = min(2*patience, maxPatience) {
		c.turn++
		if err := c.Send("exec bash --noprofile --norc --noediting"); err != nil {
			return err
		}
		// A word split by quotes: an echo of the line is not the marker.
		if err := c.Send(fmt.Sprintf(`stty -echo; dmesg -n 1; PS1=; PS2=; echo "<""<hello-%d>>"`, c.turn)); err != nil {
			return err
		}
		try, cancel := context.WithTimeout(ctx, patience)
		_, err := c.Find(try, &p, hello)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return err
		}
	}
}

// Run has the shell run a command, which must not read from the console, and
// returns its output with whatever else was printed meanwhile. It must exit
// with 0.
func (c *Console) Run(ctx context.Context, limit time.Duration, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.turn++
	id := fmt.Sprintf("run-%d", c.turn)
	p := c.Here()
	if err := c.Send(fmt.Sprintf(`%s; printf '\n<''<%s:%%d>>\n' $?`, command, id)); err != nil {
		return "", err
	}
	end := regexp.MustCompile("<<" + id + `:(\d+)>>`)
	var out strings.Builder
	for {
		l, err := c.Next(ctx, &p)
		if err != nil {
			return out.String(), fmt.Errorf("guest command %q: %w", command, err)
		}
		m := end.FindStringSubmatch(l.Text)
		if m == nil {
			out.WriteString(l.Text + "\n")
			continue
		}
		if m[1] != "0" {
			return out.String(), fmt.Errorf("guest command %q: exit %s: %s", command, m[1], program.Tail([]byte(out.String()), 1000))
		}
		return out.String(), nil
	}
}
