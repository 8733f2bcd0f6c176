package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// An option as the client sends it:
//
//	0      8      12     16          16+length
//	| magic | option | length | payload |
const optionHeaderSize = 16

// option is one option of the handshake.
type option struct {
	id      uint32
	payload []byte
}

// exportQuery is the payload of INFO and GO:
//
//	| 32 length | name | 16 count | count * 16 kind |
type exportQuery struct {
	name  string
	kinds []uint16
}

// metaQuery is the payload of LIST_META_CONTEXT and SET_META_CONTEXT:
//
//	| 32 length | name | 32 count | count * (32 length | query) |
type metaQuery struct {
	name    string
	queries []string
}

var errShort = errors.New("payload ends early")

// cursor takes fields off the front of a payload; after the first failure it
// only returns zero values.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) take(n int) []byte {
	if c.err == nil && n > len(c.rest) {
		c.err = errShort
	}
	if c.err != nil {
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// text takes a string with its length before it.
func (c *cursor) text() string {
	n := c.uint32()
	if c.err == nil && n > maxString {
		c.err = fmt.Errorf("a string has %d bytes, at most %d are allowed", n, maxString)
	}
	return string(c.take(int(min(n, maxString))))
}

// end fails if something is left.
func (c *cursor) end() error {
	if c.err == nil && len(c.rest) > 0 {
		c.err = fmt.Errorf("%d bytes too many in the payload", len(c.rest))
	}
	return c.err
}

// parseExportQuery decodes the payload of INFO and GO.
func parseExportQuery(payload []byte) (exportQuery, error) {
	c := cursor{rest: payload}
	q := exportQuery{name: c.text()}
	count := int(c.uint16())
	if c.err == nil && len(c.rest) != 2*count {
		return q, fmt.Errorf("%d kinds of information announced, %d bytes follow", count, len(c.rest))
	}
	for range count {
		q.kinds = append(q.kinds, c.uint16())
	}
	return q, orName(c.end(), q.name)
}

// parseMetaQuery decodes the payload of LIST_META_CONTEXT and SET_META_CONTEXT.
func parseMetaQuery(payload []byte) (metaQuery, error) {
	c := cursor{rest: payload}
	q := metaQuery{name: c.text()}
	count := int64(c.uint32())
	if c.err == nil && count*4 > int64(len(c.rest)) {
		return q, errShort
	}
	for range count {
		q.queries = append(q.queries, c.text())
	}
	return q, orName(c.end(), q.name)
}

// orName is err, or what is wrong with an export's name.
func orName(err error, name string) error {
	switch {
	case err != nil:
		return err
	case len(name) > maxString:
		return fmt.Errorf("the export name has %d bytes, at most %d are allowed", len(name), maxString)
	case !utf8.ValidString(name):
		return errors.New("the export name is not UTF-8")
	case strings.ContainsRune(name, 0):
		return errors.New("the export name contains a NUL")
	}
	return nil
}

// wantsAllocation tells whether queries select base:allocation. To list, no
// query at all means everything, and "base:" everything of that namespace; to
// select, a context must be named.
func (q metaQuery) wantsAllocation(listing bool) bool {
	if listing && len(q.queries) == 0 {
		return true
	}
	for _, s := range q.queries {
		if s == allocationContext || (listing && s == "base:") {
			return true
		}
	}
	return false
}
