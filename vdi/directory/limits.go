package directory

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sheepdog"
)

// Limits of what the directory keeps; every node has all of it in memory.
// Lengths are in bytes.
const (
	MaxTagLength         = 255
	MaxDescriptionLength = 4096
	MaxAttrs             = 1024    // per VDI
	MaxAttrKeyLength     = 255     // shorter than 256
	MaxAttrValueLength   = 65535   // shorter than 64 KiB
	MaxAttrBytes         = 4 << 20 // keys and values of one VDI together
	MaxCommandLength     = 4 << 20 // an encoded command
	MaxPruneIDs          = 100_000 // ids in one Prune
)

// CheckName says whether a VDI may have the name: 1 to 255 bytes of UTF-8
// without `@` and control characters, either VOLUME or POOL/VOLUME.
func CheckName(name string) error {
	switch {
	case name == "":
		return invalid("VDI name is empty")
	case len(name) > sheepdog.MaxNameLength:
		return invalid("VDI name has %d bytes, at most %d are allowed", len(name), sheepdog.MaxNameLength)
	case !utf8.ValidString(name):
		return invalid("VDI name %q is not UTF-8", name)
	case strings.Contains(name, "@"):
		return invalid("VDI name %q contains @, which separates the snapshot from the name", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return invalid("VDI name %q contains a control character", name)
	}
	pool, volume, pooled := strings.Cut(name, "/")
	if pooled && (pool == "" || volume == "" || strings.Contains(volume, "/")) {
		return invalid("VDI name %q is neither VOLUME nor POOL/VOLUME", name)
	}
	return nil
}

// CheckTag says whether a snapshot may have the tag: at most 255 bytes of UTF-8
// without control characters that are not a number; empty means no tag.
func CheckTag(tag string) error {
	switch {
	case len(tag) > MaxTagLength:
		return invalid("snapshot tag has %d bytes, at most %d are allowed", len(tag), MaxTagLength)
	case !utf8.ValidString(tag):
		return invalid("snapshot tag %q is not UTF-8", tag)
	case strings.ContainsFunc(tag, unicode.IsControl):
		return invalid("snapshot tag %q contains a control character", tag)
	case isNumber(tag):
		return invalid("snapshot tag %q is a number and would be taken for a snapshot id", tag)
	}
	return nil
}

// checkRef says whether ref can name a snapshot: a tag or a decimal id.
func checkRef(ref string) error {
	if ref == "" {
		return invalid("no snapshot named; give its tag or id")
	}
	if !isNumber(ref) {
		return CheckTag(ref)
	}
	if n, err := strconv.ParseUint(ref, 10, 32); err != nil || n == 0 {
		return invalid("snapshot id %q is not a number from 1 to 4294967295", ref)
	}
	return nil
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// CheckSize says whether a VDI of the object size may have the size in bytes.
func CheckSize(size uint64, shift uint8) error {
	switch {
	case size == 0:
		return invalid("VDI size is 0, at least 1 byte is needed")
	case size > sheepdog.MaxVDISize:
		return invalid("VDI size is %d bytes, at most %d (16 PiB) are allowed", size, uint64(sheepdog.MaxVDISize))
	case (size-1)>>shift > 1<<32-1:
		return invalid("VDI size is %d bytes, more than 2^32 objects of 2^%d bytes; choose a larger block size shift", size, shift)
	}
	return nil
}

// CheckGeometry says whether a VDI may have the object size 2^shift.
func CheckGeometry(shift uint8) error {
	if shift < sheepdog.MinBlockSizeShift || shift > sheepdog.MaxBlockSizeShift {
		return invalid("block size shift is %d, want %d to %d", shift, sheepdog.MinBlockSizeShift, sheepdog.MaxBlockSizeShift)
	}
	return nil
}

// CheckPolicy says whether a VDI may have the redundancy policy: 1 to 31
// copies, or 2, 4, 8, 12 or 16 data and 1 to 15 parity strips.
func CheckPolicy(p sheepdog.Policy) error {
	if p.Parity == 0 {
		if p.Copies < 1 || p.Copies > sheepdog.MaxCopies {
			return invalid("redundancy policy %s: want 1 to %d copies", p, sheepdog.MaxCopies)
		}
		return nil
	}
	data := p.Copies == 2 || p.Copies == 4 || p.Copies == 8 || p.Copies == 12 || p.Copies == 16
	if !data || p.Parity > 15 {
		return invalid("redundancy policy %s: want 2, 4, 8, 12 or 16 data and 1 to 15 parity strips", p)
	}
	return nil
}

func checkAttr(key string, value []byte) error {
	switch {
	case key == "":
		return invalid("attribute key is empty")
	case len(key) > MaxAttrKeyLength:
		return invalid("attribute key has %d bytes, at most %d are allowed", len(key), MaxAttrKeyLength)
	case !utf8.ValidString(key):
		return invalid("attribute key %q is not UTF-8", key)
	case len(value) > MaxAttrValueLength:
		return invalid("attribute value has %d bytes, at most %d are allowed", len(value), MaxAttrValueLength)
	}
	return nil
}

func checkDescription(s string) error {
	if len(s) > MaxDescriptionLength || !utf8.ValidString(s) {
		return invalid("snapshot description: want at most %d bytes of UTF-8", MaxDescriptionLength)
	}
	return nil
}

// utc is a proposer's time as it is kept. A time that UTC cannot write in four
// digits of a year is nonsense and becomes the zero time.
func utc(t time.Time) time.Time {
	t = t.UTC().Round(0)
	if y := t.Year(); y < 1 || y > 9999 {
		return time.Time{}
	}
	return t
}
