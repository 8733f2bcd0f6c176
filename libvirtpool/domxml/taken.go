package domxml

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"sheepdog/libvirtpool/document"
)

// takenSpace is the XML name space of what is written into the metadata of the domain
// within a snapshot, where libvirt keeps it unread: the disks that are part of the
// snapshot. libvirt's own list of disks cannot tell, see Record.XML.
const takenSpace = "urn:sheepdog:libvirt:snapshot"

// Taken is the disks of ours that are part of a snapshot, by what the domain within it
// says; false if it says nothing, as those do that were taken before it was written down.
func Taken(domain string) (disks []Disk, known bool) {
	var doc struct {
		Metadata struct {
			Taken *struct {
				Disks []struct {
					Target string `xml:"target,attr"`
					VDI    string `xml:"vdi,attr"`
				} `xml:"disk"`
			} `xml:"urn:sheepdog:libvirt:snapshot taken"`
		} `xml:"metadata"`
	}
	if document.Unmarshal(domain, &doc) != nil || doc.Metadata.Taken == nil {
		return nil, false
	}
	for _, d := range doc.Metadata.Taken.Disks {
		disks = append(disks, Disk{Target: d.Target, VDI: d.VDI, Ours: true})
	}
	return disks, true
}

// withTaken writes the disks into a domain's metadata.
func withTaken(domain string, disks []Disk) (string, error) {
	domain = WithoutTaken(domain)
	var b strings.Builder
	fmt.Fprintf(&b, "<sheepdog:taken xmlns:sheepdog='%s'>", takenSpace)
	for _, d := range disks {
		fmt.Fprintf(&b, "<sheepdog:disk target='%s' vdi='%s'/>", Escape(d.Target), Escape(d.VDI))
	}
	b.WriteString("</sheepdog:taken>")
	at, inside, err := metadata(domain)
	if err != nil {
		return "", err
	}
	if inside {
		return domain[:at] + b.String() + domain[at:], nil
	}
	return domain[:at] + "<metadata>" + b.String() + "</metadata>" + domain[at:], nil
}

// metadata is where something can be added to a domain's metadata: within that element,
// or, if there is none with anything in it, as the first of the domain.
func metadata(domain string) (at int64, inside bool, err error) {
	err = elements(domain, func(path []xml.Name, start, end int64) bool {
		switch {
		case len(path) == 1:
			at = end
		case len(path) == 2 && path[1].Local == "metadata" && !strings.HasSuffix(domain[start:end], "/>"):
			at, inside = end, true
		}
		return !inside
	})
	if err == nil && (at == 0 || strings.HasSuffix(domain[:at], "/>")) {
		err = fmt.Errorf("a domain with nothing in it: %w", io.ErrUnexpectedEOF)
	}
	return at, inside, err
}

// WithoutTaken is a domain as it was before it became part of a snapshot.
func WithoutTaken(domain string) string {
	var from, to int64
	err := elements(domain, func(path []xml.Name, start, end int64) bool {
		if len(path) == 3 && path[1].Local == "metadata" && path[2].Space == takenSpace {
			from = start
		}
		return from == 0
	})
	if err != nil || from == 0 {
		return domain
	}
	d := document.NewDecoder(domain[from:])
	for depth := 0; to == 0; {
		t, err := d.RawToken()
		if err != nil {
			return domain
		}
		switch t.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			if depth--; depth == 0 {
				to = from + d.InputOffset()
			}
		}
	}
	rest := domain[:from] + domain[to:]
	return strings.Replace(rest, "<metadata></metadata>", "", 1)
}

// elements tells f of the start of every element: its path, and where its tag begins and
// ends. f returns false when it has seen enough.
func elements(text string, f func(path []xml.Name, start, end int64) bool) error {
	d := document.NewDecoder(text)
	var path []xml.Name
	for {
		start := d.InputOffset()
		t, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("parse the XML: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if path = append(path, t.Name); len(path) > maxDepth {
				return errDepth
			}
			if !f(path, start, d.InputOffset()) {
				return nil
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
}
