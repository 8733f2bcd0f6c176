package storage

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"strings"

	"sheepdog/libvirtpool/document"
	"sheepdog/libvirtpool/rpc"
)

// PoolType is the type attribute of our pools. libvirt's clients know it.
const PoolType = "sheepdog"

// poolDocument is what is read of a pool's XML.
type poolDocument struct {
	XMLName xml.Name `xml:"pool"`
	Type    string   `xml:"type,attr"`
	Name    string   `xml:"name"`
	UUID    string   `xml:"uuid"`
	Source  struct {
		Name *string `xml:"name"`
		Host *struct {
			Name string `xml:"name,attr"`
			Port string `xml:"port,attr"`
		} `xml:"host"`
	} `xml:"source"`
}

// IsOurPool reports whether the XML describes a pool of our type. XML that cannot
// be read is somebody else's to refuse.
func IsOurPool(text string) bool {
	d := document.NewDecoder(text)
	for {
		t, err := d.RawToken()
		if err != nil {
			return false
		}
		start, ok := t.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range start.Attr {
			if a.Name.Local == "type" {
				return start.Name.Local == "pool" && a.Value == PoolType
			}
		}
		return false
	}
}

// PoolIdentity is the name and UUID in a pool's XML of any type, as far as they
// can be read.
func PoolIdentity(text string) (name string, id rpc.UUID, hasUUID bool) {
	var doc poolDocument
	if document.Unmarshal(text, &doc) != nil {
		return "", id, false
	}
	id, err := ParseUUID(doc.UUID)
	return doc.Name, id, err == nil && doc.UUID != ""
}

// parsePool reads a pool's XML. Without a UUID it makes one up; without a source
// name the pool's name is used, as libvirt does.
func parsePool(text string) (Definition, error) {
	var doc poolDocument
	if err := document.Unmarshal(text, &doc); err != nil {
		return Definition{}, malformed("storage_pool_definition", err)
	}
	if doc.Type != PoolType {
		return Definition{}, rpc.Errorf(rpc.CodeXML, "unknown storage pool type %s", doc.Type)
	}
	def := Definition{Name: doc.Name, Namespace: doc.Name}
	if doc.Name == "" {
		return Definition{}, rpc.Errorf(rpc.CodeXML, "missing pool source name element")
	}
	if err := checkText("name", doc.Name); err != nil {
		return Definition{}, err
	}
	if doc.Source.Name != nil {
		def.Namespace = strings.TrimSpace(*doc.Source.Name)
	}
	if def.Namespace == unnamed {
		def.Namespace = ""
	}
	if err := checkNamespace(def.Namespace); err != nil {
		return Definition{}, err
	}
	if h := doc.Source.Host; h != nil {
		def.Host = h.Name
		if h.Port != "" {
			def.Host = net.JoinHostPort(h.Name, h.Port)
		}
	}
	var err error
	def.UUID, err = ParseUUID(doc.UUID)
	return def, err
}

// malformed is the error for XML that cannot be read, or that describes something
// else.
func malformed(what string, err error) error {
	var other xml.UnmarshalError
	if errors.As(err, &other) {
		return rpc.Errorf(rpc.CodeXML, "unexpected root element: %v", err)
	}
	return rpc.Errorf(rpc.CodeXMLDetail, "(%s): %v", what, err)
}

// ParseUUID reads a UUID with or without dashes; an empty one is made up.
func ParseUUID(s string) (u rpc.UUID, err error) {
	if s = strings.TrimSpace(s); s == "" {
		rand.Read(u[:])
		u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
		return u, nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, rpc.Errorf(rpc.CodeXML, "malformed uuid element")
	}
	return rpc.UUID(b), nil
}

// FormatUUID writes a UUID as libvirt does.
func FormatUUID(u rpc.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// poolXML writes a pool.
func poolXML(d Definition, c Capacity) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<pool type='%s'>\n  <name>%s</name>\n  <uuid>%s</uuid>\n", PoolType, escape(d.Name), FormatUUID(d.UUID))
	for _, e := range []struct {
		name  string
		bytes uint64
	}{{"capacity", c.Total}, {"allocation", c.Used}, {"available", c.Free}} {
		fmt.Fprintf(&b, "  <%s unit='bytes'>%d</%s>\n", e.name, e.bytes, e.name)
	}
	b.WriteString("  <source>\n")
	if name, port, err := net.SplitHostPort(d.Host); err == nil {
		fmt.Fprintf(&b, "    <host name='%s' port='%s'/>\n", escape(name), escape(port))
	} else if d.Host != "" {
		fmt.Fprintf(&b, "    <host name='%s'/>\n", escape(d.Host))
	}
	source := d.Namespace
	if source == "" {
		source = unnamed
	}
	fmt.Fprintf(&b, "    <name>%s</name>\n  </source>\n</pool>\n", escape(source))
	return b.String()
}

// Capabilities is what pools of our type can do, as one element of libvirt's
// storagepoolCapabilities.
const Capabilities = `  <pool type='sheepdog' supported='yes'>
    <volOptions>
      <defaultFormat type='raw'/>
      <enum name='targetFormatType'>
        <value>raw</value>
      </enum>
    </volOptions>
  </pool>
`

// escape makes text safe between tags and in attributes.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer does not fail
	return b.String()
}
