package api

import (
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"sheepdog"
)

// CheckName reports whether s may name a VDI: 1 to 255 bytes of UTF-8 without
// `@`, which separates snapshots in NBD export names, and control characters,
// either VOLUME or POOL/VOLUME.
func CheckName(s string) error {
	pool, volume, pooled := strings.Cut(s, "/")
	if pooled && (pool == "" || volume == "" || strings.Contains(volume, "/")) {
		return invalidf("VDI name %q is neither VOLUME nor POOL/VOLUME", s)
	}
	return checkText("VDI name", s)
}

// CheckTag reports whether s may tag a snapshot: like a name, and no number,
// because numbers select snapshots too.
func CheckTag(s string) error {
	if err := checkText("snapshot tag", s); err != nil {
		return err
	}
	if strings.Trim(s, "0123456789") == "" {
		return invalidf("snapshot tag %q is a number; numbers select snapshots by their id", s)
	}
	return nil
}

func checkText(what, s string) error {
	fail := func(why string) error { return invalidf("%s %q %s", what, s, why) }
	switch {
	case s == "":
		return invalidf("%s is empty", what)
	case len(s) > sheepdog.MaxNameLength:
		return invalidf("%s of %d bytes is longer than %d bytes", what, len(s), sheepdog.MaxNameLength)
	case !utf8.ValidString(s):
		return fail("is not UTF-8")
	case strings.Contains(s, "@"):
		return fail("contains @, which separates a name from a snapshot")
	case strings.ContainsFunc(s, unicode.IsControl):
		return fail("contains a control character")
	}
	return nil
}

// CheckSize reports whether n may be the size of a VDI in bytes.
func CheckSize(n uint64) error {
	if n == 0 || n > sheepdog.MaxVDISize {
		return invalidf("VDI size %d: want 1 byte to 16 PiB", n)
	}
	return nil
}

// checkSelector allows what may select a snapshot; required forbids the empty
// selector, which stands for the working VDI.
func checkSelector(s Selector, required bool) error {
	if s == "" {
		if required {
			return invalidf("no snapshot given; want a tag or a number")
		}
		return nil
	}
	if strings.Trim(string(s), "0123456789") != "" {
		return CheckTag(string(s))
	}
	if n, ok := s.Number(); !ok || n == 0 {
		return invalidf("snapshot number %s: want 1 to 4294967295", s)
	}
	return nil
}

func checkShift(n uint8) error {
	if n != 0 && (n < sheepdog.MinBlockSizeShift || n > sheepdog.MaxBlockSizeShift) {
		return invalidf("block size shift %d: want %d to %d", n, sheepdog.MinBlockSizeShift, sheepdog.MaxBlockSizeShift)
	}
	return nil
}

// checkIndexes refuses a size that has more objects than can be numbered.
func checkIndexes(size uint64, shift uint8) error {
	if shift != 0 && size > (math.MaxUint32+1)<<shift {
		return invalidf("VDI size %d: at most %d objects of 2^%d bytes are possible", size, uint64(math.MaxUint32+1), shift)
	}
	return nil
}

// firstError is the first of errs that is not nil.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *FormatRequest) check() error {
	if r.Copies.Copies == 0 {
		return invalidf("no number of copies given")
	}
	if int(r.MinCopies) > r.Copies.Width() {
		return invalidf("min-copies %d is more than the copies (%s)", r.MinCopies, r.Copies)
	}
	return checkShift(r.BlockSizeShift)
}

func (r *RecoverySetting) check() error {
	if r.Enabled == nil {
		return invalidf("member `enabled` is missing")
	}
	return nil
}

func (r *CheckRequest) check() error {
	if r.VDI == "" {
		if r.Snapshot != "" {
			return invalidf("a snapshot needs the name of its VDI")
		}
		return nil
	}
	return firstError(CheckName(r.VDI), checkSelector(r.Snapshot, false))
}

func (r *CreateRequest) check() error {
	return firstError(CheckName(r.Name), CheckSize(r.SizeBytes), checkShift(r.BlockSizeShift), checkIndexes(r.SizeBytes, r.BlockSizeShift))
}

func checkDescription(s string) error {
	if len(s) > MaxDescription || !utf8.ValidString(s) {
		return invalidf("description of %d bytes: want at most %d bytes of UTF-8", len(s), MaxDescription)
	}
	return nil
}

func (r *SnapshotRequest) check() error {
	if err := checkDescription(r.Description); err != nil {
		return err
	}
	if r.Tag == "" {
		return CheckName(r.Name)
	}
	return firstError(CheckName(r.Name), CheckTag(r.Tag))
}

func (r *CloneRequest) check() error {
	if r.SizeBytes != 0 {
		if err := CheckSize(r.SizeBytes); err != nil {
			return err
		}
	}
	return firstError(CheckName(r.Source), checkSelector(r.Snapshot, r.Preallocate || r.NoShare), CheckName(r.Name))
}

func (r *DeleteRequest) check() error {
	return firstError(CheckName(r.Name), checkSelector(r.Snapshot, false))
}

func (r *RollbackRequest) check() error {
	if r.SaveTag != "" {
		if err := CheckTag(r.SaveTag); err != nil {
			return err
		}
	}
	return firstError(CheckName(r.Name), checkSelector(r.Snapshot, true))
}

func (r *ResizeRequest) check() error {
	return firstError(CheckName(r.Name), CheckSize(r.SizeBytes))
}

func (r *VDICopiesRequest) check() error {
	if r.Copies.Copies == 0 {
		return invalidf("no redundancy given")
	}
	return CheckName(r.Name)
}

func (r *RenameRequest) check() error { return firstError(CheckName(r.Name), CheckName(r.NewName)) }

func (r *ReadRequest) check() error {
	return firstError(CheckName(r.Name), checkSelector(r.Snapshot, false))
}

func (r *WriteRequest) check() error { return CheckName(r.Name) }
