package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"sheepdog"
)

// CommandVersion is the version of a command's encoding. An old node must not
// guess at a newer one: states would part.
const CommandVersion = 1

// MaxCommand is the size of an encoded command in bytes.
const MaxCommand = 8 << 20

// ErrVersion is returned for a command or snapshot of an unknown version. The
// node must stop and be upgraded; skipping the command would make it differ
// from the others.
var ErrVersion = errors.New("format version is unknown: upgrade this node")

// Command is one entry of the Raft log. Exactly one field is set.
type Command struct {
	Format    *Format    `json:"format,omitempty"`
	Change    *Change    `json:"change,omitempty"`
	Promote   *Promote   `json:"promote,omitempty"`
	Clean     *Clean     `json:"clean,omitempty"`
	Table     *AddTable  `json:"table,omitempty"`
	Configure *Configure `json:"configure,omitempty"`
	Refound   *Refound   `json:"refound,omitempty"`
	Force     *Force     `json:"force,omitempty"`
}

// envelope is a command as the Raft log keeps it.
type envelope struct {
	Version int `json:"v"`
	Command
}

// Encode is the command for the Raft log.
func (c Command) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(envelope{Version: CommandVersion, Command: c})
	if err != nil {
		return nil, fmt.Errorf("encode %s command: %w", c.kind(), err)
	}
	if len(b) > MaxCommand {
		return nil, fmt.Errorf("%w: %s command has %d bytes, at most %d are possible; split it", sheepdog.ErrInvalid, c.kind(), len(b), MaxCommand)
	}
	return b, nil
}

// DecodeCommand reads what Encode wrote. The error wraps ErrVersion for a
// version of the future and sheepdog.ErrInvalid for anything malformed.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) > MaxCommand {
		return Command{}, fmt.Errorf("decode command: %w: %d bytes, at most %d are possible", sheepdog.ErrInvalid, len(b), MaxCommand)
	}
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Command{}, fmt.Errorf("decode command: %w: %w", sheepdog.ErrInvalid, err)
	}
	if head.Version != CommandVersion {
		return Command{}, fmt.Errorf("decode command of version %d: %w", head.Version, ErrVersion)
	}
	var e envelope
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return Command{}, fmt.Errorf("decode command: %w: %w", sheepdog.ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Command{}, fmt.Errorf("decode command: %w: bytes after its end", sheepdog.ErrInvalid)
	}
	return e.Command, e.check()
}

// kind names the command in errors; "empty" or "ambiguous" if it is malformed.
func (c Command) kind() string {
	name, n := "empty", 0
	for _, k := range []struct {
		set  bool
		name string
	}{
		{c.Format != nil, "format"}, {c.Change != nil, "change"}, {c.Promote != nil, "promote"},
		{c.Clean != nil, "clean"}, {c.Table != nil, "table"}, {c.Configure != nil, "configure"},
		{c.Refound != nil, "refound"}, {c.Force != nil, "force"},
	} {
		if k.set {
			name = k.name
			n++
		}
	}
	if n > 1 {
		return "ambiguous"
	}
	return name
}

// check refuses what no state could accept.
func (c Command) check() error {
	var err error
	switch kind := c.kind(); kind {
	case "format":
		err = c.Format.check()
	case "change":
		err = c.Change.check()
	case "promote":
		err = checkStep(c.Promote.Policy, c.Promote.Items)
	case "clean":
		err = checkStep(c.Clean.Policy, c.Clean.Items)
	case "table":
		err = checkPolicy(c.Table.Policy)
	case "configure":
		err = c.Configure.check()
	case "refound":
		err = c.Refound.check()
	case "force":
		err = c.Force.check()
	default:
		return fmt.Errorf("%w: %s command, exactly one kind is wanted", sheepdog.ErrInvalid, kind)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.kind(), err)
	}
	return nil
}

// PartitionSince names a partition as it was when the command was proposed.
type PartitionSince struct {
	Partition sheepdog.Partition `json:"p"`
	Since     sheepdog.Revision  `json:"s"`
}

func checkStep(policy sheepdog.Policy, items []PartitionSince) error {
	if len(items) > sheepdog.Partitions {
		return fmt.Errorf("%w: %d partitions, there are %d", sheepdog.ErrInvalid, len(items), sheepdog.Partitions)
	}
	return checkPolicy(policy)
}

func checkPolicy(p sheepdog.Policy) error {
	if p.Copies < 1 || p.Copies > sheepdog.MaxCopies || p.Parity > 15 {
		return fmt.Errorf("%w: redundancy policy %s: want 1 to %d copies and at most 15 parity strips", sheepdog.ErrInvalid, p, sheepdog.MaxCopies)
	}
	return nil
}

// checkTime keeps out what JSON cannot carry.
func checkTime(t time.Time) error {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Errorf("%w: time is in year %d", sheepdog.ErrInvalid, y)
	}
	return nil
}
