package domxml

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"sheepdog/libvirtpool/document"
)

// Snapshot is what is asked for in the XML of a domain snapshot.
type Snapshot struct {
	Name        string
	Description string
	Memory      string // how to save memory; empty: not said
	Disks       []SnapshotDisk
}

// SnapshotDisk is what is asked for a disk.
type SnapshotDisk struct {
	Target  string
	How     string // attribute snapshot; empty: not said
	Outside bool   // it is to go on in a file or device that is named
}

// LeavesOut reports whether a disk is to be no part of the snapshot.
func (s *Snapshot) LeavesOut(d Disk) bool {
	for _, asked := range s.Disks {
		if asked.Target == d.Target && asked.How != "" {
			return leftOut(asked.How)
		}
	}
	return d.Apart
}

// Outside reports whether a disk is to go on in a file or device that is named.
func (s *Snapshot) Outside(target string) bool {
	return slices.ContainsFunc(s.Disks, func(d SnapshotDisk) bool { return d.Target == target && d.Outside })
}

// snapshotDocument is what is read of that XML.
type snapshotDocument struct {
	XMLName     xml.Name `xml:"domainsnapshot"`
	Name        string   `xml:"name"`
	Description string   `xml:"description"`
	Memory      struct {
		Snapshot string `xml:"snapshot,attr"`
	} `xml:"memory"`
	Disks []struct {
		Name     string `xml:"name,attr"`
		Snapshot string `xml:"snapshot,attr"`
		Source   *struct {
			Attr []xml.Attr `xml:",any,attr"`
		} `xml:"source"`
	} `xml:"disks>disk"`
}

// ParseSnapshot reads the XML of a domain snapshot.
func ParseSnapshot(text string) (Snapshot, error) {
	var doc snapshotDocument
	if err := document.Unmarshal(text, &doc); err != nil {
		return Snapshot{}, fmt.Errorf("parse the snapshot's XML: %w", err)
	}
	s := Snapshot{Name: doc.Name, Description: doc.Description, Memory: doc.Memory.Snapshot}
	for _, d := range doc.Disks {
		s.Disks = append(s.Disks, SnapshotDisk{Target: d.Name, How: d.Snapshot, Outside: d.Source != nil && len(d.Source.Attr) > 0})
	}
	return s, nil
}

// Record is a snapshot of ours as it is written into libvirt's own list, so that
// all of libvirt's calls about snapshots know it.
type Record struct {
	Name, Description string
	Created           int64  // seconds since 1970
	Disks             []Disk // all of the domain
	Taken             []Disk // those that are part of the snapshot
	DomainXML         string
}

// XML is what libvirt takes with the flag REDEFINE. It has no part in the
// snapshot, so it is told that no disk is saved by it; Taken finds those that are.
func (r Record) XML() (string, error) {
	domain, err := withTaken(strings.TrimSpace(strip(r.DomainXML)), r.Taken)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<domainsnapshot>\n  <name>%s</name>\n", escape(r.Name))
	if r.Description != "" {
		fmt.Fprintf(&b, "  <description>%s</description>\n", escape(r.Description))
	}
	fmt.Fprintf(&b, "  <state>disk-snapshot</state>\n  <creationTime>%d</creationTime>\n  <memory snapshot='no'/>\n  <disks>\n", r.Created)
	for _, d := range r.Disks {
		fmt.Fprintf(&b, "    <disk name='%s' snapshot='no'/>\n", escape(d.Target))
	}
	b.WriteString("  </disks>\n" + domain + "\n</domainsnapshot>\n")
	return b.String(), nil
}

// strip removes an XML declaration, which cannot stand within a document.
func strip(text string) string {
	if text = strings.TrimSpace(text); strings.HasPrefix(text, "<?xml") {
		if i := strings.Index(text, "?>"); i >= 0 {
			return text[i+2:]
		}
	}
	return text
}

// DomainOf is the domain in a snapshot's XML; empty if there is none.
func DomainOf(snapshot string) string {
	d := document.NewDecoder(snapshot)
	depth := 0
	for {
		from := d.InputOffset()
		t, err := d.RawToken()
		if err != nil {
			return ""
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth++; depth == 2 && t.Name.Local == "domain" {
				if end := strings.LastIndex(snapshot, "</domain>"); end > int(from) {
					return snapshot[from : end+len("</domain>")]
				}
				return ""
			}
		case xml.EndElement:
			depth--
		}
	}
}

// HasAgent reports whether a running domain's guest agent is connected, and
// whether the domain has a channel for one at all.
func HasAgent(domain string) (connected, channel bool) {
	var doc struct {
		Channels []struct {
			Target struct {
				Name  string `xml:"name,attr"`
				State string `xml:"state,attr"`
			} `xml:"target"`
		} `xml:"devices>channel"`
	}
	if document.Unmarshal(domain, &doc) != nil {
		return false, false
	}
	for _, c := range doc.Channels {
		if c.Target.Name == "org.qemu.guest_agent.0" {
			return c.Target.State == "connected", true
		}
	}
	return false, false
}
