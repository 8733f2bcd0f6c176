package peer

import (
	"errors"
	"fmt"

	"sheepdog"
)

// errShort is the cause where a message ends early or goes on too long.
var errShort = errors.New("wrong length")

// cursor takes fields off a message; the first field that is not there sets bad
// and all further ones are zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n < 0 || len(c.b) < n {
		c.bad, c.b = true, nil
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return be.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return be.Uint64(b)
	}
	return 0
}

// count takes a number of entries and refuses one whose entries, each of at
// least size bytes, cannot be in what is left.
func (c *cursor) count(size int) int {
	n := c.u32()
	if uint64(n)*uint64(size) > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return 0
	}
	return int(n)
}

func (c *cursor) fence() sheepdog.Fence {
	return sheepdog.Fence{Revision: sheepdog.Revision(c.u64()), Token: sheepdog.Token(c.u64())}
}

func (c *cursor) object() sheepdog.ObjectID {
	return sheepdog.ObjectID{Family: sheepdog.FamilyID(c.u64()), Index: sheepdog.Index(c.u32())}
}

func (c *cursor) stamp() sheepdog.Stamp {
	return sheepdog.Stamp{Token: sheepdog.Token(c.u64()), Seq: c.u64()}
}

func (c *cursor) origin() sheepdog.Origin {
	return sheepdog.Origin{Gateway: sheepdog.Incarnation(c.u64()), Request: c.u64()}
}

func (c *cursor) policy() sheepdog.Policy {
	return sheepdog.Policy{Copies: c.u8(), Parity: c.u8()}
}

// end is nil if the message was exactly as long as its fields.
func (c *cursor) end(what string) error {
	if c.bad || len(c.b) != 0 {
		return invalid("%s: %w", what, errShort)
	}
	return nil
}

// invalid is an error that wraps sheepdog.ErrInvalid.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", sheepdog.ErrInvalid, fmt.Errorf(format, args...))
}

func appendFence(b []byte, f sheepdog.Fence) []byte {
	b = be.AppendUint64(b, uint64(f.Revision))
	return be.AppendUint64(b, uint64(f.Token))
}

func appendObject(b []byte, o sheepdog.ObjectID) []byte {
	b = be.AppendUint64(b, uint64(o.Family))
	return be.AppendUint32(b, uint32(o.Index))
}

func appendStamp(b []byte, s sheepdog.Stamp) []byte {
	b = be.AppendUint64(b, uint64(s.Token))
	return be.AppendUint64(b, s.Seq)
}

func appendOrigin(b []byte, o sheepdog.Origin) []byte {
	b = be.AppendUint64(b, uint64(o.Gateway))
	return be.AppendUint64(b, o.Request)
}

func appendPolicy(b []byte, p sheepdog.Policy) []byte { return append(b, p.Copies, p.Parity) }
