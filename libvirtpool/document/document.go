// Package document decodes XML as libvirt's clients send it. That is what encoding/xml
// does but for one thing: programs declare an encoding that is a part of UTF-8, as
// Python's XML libraries do with ASCII, and libvirt's own parser takes it.
package document

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// NewDecoder decodes a document. Offsets in it are those in text.
func NewDecoder(text string) *xml.Decoder {
	d := xml.NewDecoder(strings.NewReader(text))
	d.CharsetReader = func(label string, r io.Reader) (io.Reader, error) {
		switch strings.ToLower(label) {
		case "ascii", "us-ascii", "iso-8859-1", "latin1", "windows-1252", "utf8":
			if i := strings.IndexFunc(text, func(c rune) bool { return c > unicode.MaxASCII }); i >= 0 && !strings.EqualFold(label, "utf8") {
				return nil, fmt.Errorf("the document is declared as %s and has another character at byte %d: write it in UTF-8", label, i)
			}
			return r, nil
		}
		return nil, fmt.Errorf("the document is declared as %s: write it in UTF-8", label)
	}
	return d
}

// Unmarshal decodes a whole document into v.
func Unmarshal(text string, v any) error { return NewDecoder(text).Decode(v) }
