package domxml

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"sheepdog/libvirtpool/document"
)

// maxDepth bounds how deep elements may lie in each other.
const maxDepth = 256

// element is an element of a disk, or text if name is empty. Prefixes of names
// are kept as they were written.
type element struct {
	name string
	attr []attribute
	kids []*element
	text string // already escaped
}

type attribute struct{ name, value string }

// get is the value of an attribute; empty if there is none.
func (e *element) get(name string) string {
	for _, a := range e.attr {
		if a.name == name {
			return a.value
		}
	}
	return ""
}

func (e *element) has(name string) bool {
	for _, a := range e.attr {
		if a.name == name {
			return true
		}
	}
	return false
}

// set changes an attribute or adds it.
func (e *element) set(name, value string) {
	for i := range e.attr {
		if e.attr[i].name == name {
			e.attr[i].value = value
			return
		}
	}
	e.attr = append(e.attr, attribute{name, value})
}

// initial sets an attribute that is not there.
func (e *element) initial(name, value string) {
	if !e.has(name) {
		e.set(name, value)
	}
}

func (e *element) drop(names ...string) {
	var kept []attribute
	for _, a := range e.attr {
		if !contains(names, a.name) {
			kept = append(kept, a)
		}
	}
	e.attr = kept
}

// child is the first element of a name, or nil.
func (e *element) child(name string) *element {
	for _, k := range e.kids {
		if k.name == name {
			return k
		}
	}
	return nil
}

// dropChildren removes elements by name, and text that only indented them.
func (e *element) dropChildren(names ...string) {
	var kept []*element
	for _, k := range e.kids {
		if k.name == "" || !contains(names, k.name) {
			kept = append(kept, k)
		}
	}
	e.kids = kept
	for _, k := range e.kids {
		if k.name != "" || strings.TrimSpace(k.text) != "" {
			return
		}
	}
	e.kids = nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// write appends the element as XML.
func (e *element) write(b *strings.Builder) {
	if e.name == "" {
		b.WriteString(e.text)
		return
	}
	b.WriteString("<" + e.name)
	for _, a := range e.attr {
		b.WriteString(" " + a.name + "='" + escapeAttribute(a.value) + "'")
	}
	if len(e.kids) == 0 {
		b.WriteString("/>")
		return
	}
	b.WriteString(">")
	for _, k := range e.kids {
		k.write(b)
	}
	b.WriteString("</" + e.name + ">")
}

// escape makes text safe within elements and in attributes of single quotes.
// Line breaks in text stay; in attributes a parser would make blanks of them.
func escape(s string) string { return textEscapes().Replace(s) }

// Escape makes text safe in XML that a caller writes.
func Escape(s string) string { return escapeAttribute(s) }

func escapeAttribute(s string) string {
	return strings.NewReplacer("\n", "&#10;", "\t", "&#9;").Replace(escape(s))
}

func textEscapes() *strings.Replacer {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", "\r", "&#13;")
}

// found is a disk at its place in the document.
type found struct {
	from, to int64 // byte offsets
	disk     *element
}

// errDepth is returned for documents that are nested too deeply.
var errDepth = errors.New("the XML is nested too deeply")

// disks parses a document and returns its disks: the root, or devices/disk of a
// domain. A <disk> anywhere else, such as in metadata, is none.
func disks(text string) ([]found, error) {
	d := document.NewDecoder(text)
	var out []found
	var path []string
	for {
		from := d.InputOffset()
		t, err := d.RawToken()
		if err == io.EOF && len(path) == 0 {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse the XML: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			name := qualified(t.Name)
			if path = append(path, name); len(path) > maxDepth {
				return nil, errDepth
			}
			if !isDisk(path) {
				continue
			}
			e, err := parse(d, t, len(path))
			if err != nil {
				return nil, err
			}
			path = path[:len(path)-1]
			out = append(out, found{from: from, to: d.InputOffset(), disk: e})
		case xml.EndElement:
			if len(path) == 0 || path[len(path)-1] != qualified(t.Name) {
				return nil, fmt.Errorf("parse the XML: unexpected end of element %s", qualified(t.Name))
			}
			path = path[:len(path)-1]
		}
	}
}

// isDisk tells disks by where they are: <disk>, <domain><devices><disk>, and the
// domain within a snapshot.
func isDisk(path []string) bool {
	n := len(path)
	if path[n-1] != "disk" {
		return false
	}
	return n == 1 || n >= 3 && n <= 5 && path[n-2] == "devices" && (path[n-3] == "domain" || path[n-3] == "inactiveDomain")
}

func qualified(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// parse reads the element that start begins, to its end.
func parse(d *xml.Decoder, start xml.StartElement, depth int) (*element, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	e := &element{name: qualified(start.Name)}
	for _, a := range start.Attr {
		e.attr = append(e.attr, attribute{qualified(a.Name), a.Value})
	}
	for {
		t, err := d.RawToken()
		if err != nil {
			return nil, fmt.Errorf("parse the XML: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			kid, err := parse(d, t, depth+1)
			if err != nil {
				return nil, err
			}
			e.kids = append(e.kids, kid)
		case xml.CharData:
			e.kids = append(e.kids, &element{text: escape(string(t))})
		case xml.Comment:
			e.kids = append(e.kids, &element{text: "<!--" + string(t) + "-->"})
		case xml.EndElement:
			if qualified(t.Name) != e.name {
				return nil, fmt.Errorf("parse the XML: element %s ends as %s", e.name, qualified(t.Name))
			}
			return e, nil
		}
	}
}
