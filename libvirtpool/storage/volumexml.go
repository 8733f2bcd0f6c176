package storage

import (
	"encoding/xml"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"sheepdog"
	"sheepdog/libvirtpool/document"
	"sheepdog/libvirtpool/rpc"
)

// volumeDocument is what is read of a volume's XML.
type volumeDocument struct {
	XMLName  xml.Name `xml:"volume"`
	Name     string   `xml:"name"`
	Capacity *struct {
		Unit string `xml:"unit,attr"`
		Text string `xml:",chardata"`
	} `xml:"capacity"`
	Target struct {
		Format struct {
			Type string `xml:"type,attr"`
		} `xml:"format"`
		Encryption *struct{} `xml:"encryption"`
	} `xml:"target"`
	Backing struct {
		Path string `xml:"path"`
	} `xml:"backingStore"`
}

// formats is what libvirt knows as formats of volumes. Here all mean raw.
var formats = []string{"none", "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow", "qcow2", "qed", "vmdk"}

// VolumeSummary is what a volume's XML, of any pool, says of it.
type VolumeSummary struct {
	Name     string
	Capacity uint64 // bytes
	Format   string // empty: not said
}

// ParseVolume reads a volume's XML.
func ParseVolume(text string) (VolumeSummary, error) {
	s, err := parseVolume(text)
	return VolumeSummary{Name: s.name, Capacity: s.capacity, Format: s.format}, err
}

// volumeSpec is a volume to make.
type volumeSpec struct {
	name     string
	capacity uint64 // bytes
	sized    bool   // capacity was given
	format   string
	backing  string // path of the volume to clone
}

func parseVolume(text string) (volumeSpec, error) {
	var doc volumeDocument
	if err := document.Unmarshal(text, &doc); err != nil {
		return volumeSpec{}, malformed("storage_volume_definition", err)
	}
	if doc.Target.Encryption != nil {
		return volumeSpec{}, rpc.Errorf(rpc.CodeConfig, "storage pool does not support encrypted volumes")
	}
	if f := doc.Target.Format.Type; f != "" && !slices.Contains(formats, f) {
		return volumeSpec{}, rpc.Errorf(rpc.CodeConfig, "unknown volume format type %s", f)
	}
	spec := volumeSpec{name: strings.TrimSpace(doc.Name), format: doc.Target.Format.Type, backing: strings.TrimSpace(doc.Backing.Path)}
	if doc.Capacity == nil {
		return spec, nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(doc.Capacity.Text), 10, 64)
	if err != nil {
		return volumeSpec{}, rpc.Errorf(rpc.CodeXML, "malformed capacity element")
	}
	spec.sized = true
	spec.capacity, err = scale(n, doc.Capacity.Unit)
	return spec, err
}

// scale multiplies with a unit as libvirt writes them: bytes, KB (1000), KiB or K
// (1024) and so on.
func scale(n uint64, unit string) (uint64, error) {
	if unit == "" || strings.EqualFold(unit, "b") || strings.EqualFold(unit, "bytes") || strings.EqualFold(unit, "byte") {
		return n, checkSize(n)
	}
	power := strings.IndexByte("kmgtpe", lower(unit[0])) + 1
	var base uint64
	switch suffix := strings.ToLower(unit[1:]); {
	case suffix == "" || suffix == "ib":
		base = 1024
	case suffix == "b":
		base = 1000
	}
	if power == 0 || base == 0 {
		return 0, rpc.Errorf(rpc.CodeInvalidArg, "unknown suffix '%s'", unit)
	}
	for range power {
		high, low := bits.Mul64(n, base)
		if high != 0 {
			return 0, checkSize(1 << 63)
		}
		n = low
	}
	return n, checkSize(n)
}

func lower(c byte) byte { return c | 0x20 }

// checkSize refuses sizes that no VDI can have. 0 is none yet.
func checkSize(n uint64) error {
	if n > sheepdog.MaxVDISize {
		return rpc.Errorf(rpc.CodeInvalidArg, "volume capacity of %d bytes: at most %d (16 PiB) are possible", n, uint64(sheepdog.MaxVDISize))
	}
	return nil
}

// volumeXML writes a volume.
func volumeXML(v Volume, allocated uint64) string {
	return fmt.Sprintf(`<volume type='network'>
  <name>%s</name>
  <key>%s</key>
  <capacity unit='bytes'>%d</capacity>
  <allocation unit='bytes'>%d</allocation>
  <target>
    <path>%s</path>
    <format type='raw'/>
  </target>
</volume>
`, escape(v.Name), escape(v.Key()), v.VDI.Size, allocated, escape(v.Key()))
}
