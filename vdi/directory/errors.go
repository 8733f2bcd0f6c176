package directory

import (
	"errors"
	"fmt"
	"strings"

	"sheepdog"
)

// What is missing, for callers that answer differently. All wrap
// sheepdog.ErrNotFound. Their texts open the messages of this package, so that
// Missing can tell them apart when only the text has crossed the wire.
var (
	// ErrNoVDI is returned when no VDI has the name or id.
	ErrNoVDI error = &missingError{"no such VDI"}
	// ErrNoSnapshot is returned when the VDI name exists but not the tag or id.
	ErrNoSnapshot error = &missingError{"no such snapshot"}
	// ErrNoAttr is returned when the VDI exists but not the attribute.
	ErrNoAttr error = &missingError{"no such attribute"}
)

type missingError struct{ text string }

func (e *missingError) Error() string { return e.text }
func (e *missingError) Unwrap() error { return sheepdog.ErrNotFound }

// Missing says what an error misses: ErrNoVDI, ErrNoSnapshot or ErrNoAttr, or
// nil if it is none of them. It works on errors that crossed the wire too.
func Missing(err error) error {
	if !errors.Is(err, sheepdog.ErrNotFound) {
		return nil
	}
	text, found, first := err.Error(), error(nil), -1
	for _, m := range []error{ErrNoVDI, ErrNoSnapshot, ErrNoAttr} {
		if errors.Is(err, m) {
			return m
		}
		if at := strings.Index(text, m.Error()+": "); at >= 0 && (first < 0 || at < first) {
			found, first = m, at
		}
	}
	return found
}

func noVDI(name string) error {
	return fmt.Errorf("%w: %q; see `dog vdi list`", ErrNoVDI, name)
}

func noSnapshot(name, ref string) error {
	return fmt.Errorf("%w: VDI %q has no tag or id %q; see `dog vdi list`", ErrNoSnapshot, name, ref)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, sheepdog.ErrInvalid)...)
}

func conflict(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, sheepdog.ErrConflict)...)
}

func fenced(f *Family, token sheepdog.Token) error {
	return fmt.Errorf("token %d of family %d is not that of its coordinator, which is %d: %w",
		token, f.ID, f.Token, sheepdog.ErrFenced)
}

func frozen(layer sheepdog.LayerID) error {
	return fmt.Errorf("layer %d takes no writes: %w", layer, sheepdog.ErrFrozen)
}

func exists(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, sheepdog.ErrExists)...)
}

func busy(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, sheepdog.ErrBusy)...)
}

func noAttr(name, key string) error {
	return fmt.Errorf("%w: VDI %q has no attribute %q", ErrNoAttr, name, key)
}

func noIDs() error {
	return fmt.Errorf("all %d VDI ids are in use; delete some snapshots: %w", vidSpace-1, sheepdog.ErrNoSpace)
}
