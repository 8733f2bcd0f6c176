package storage

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
)

// unnamed is how XML writes the name space of VDIs without a slash.
const unnamed = "/"

// vdiName is the VDI of a volume.
func vdiName(namespace, volume string) string {
	if namespace == "" {
		return volume
	}
	return namespace + "/" + volume
}

// volumeName is the volume that a VDI is in a name space; false if it is in
// another one.
func volumeName(namespace, vdi string) (string, bool) {
	space, volume := splitVDI(vdi)
	return volume, space == namespace && volume != ""
}

// splitVDI parts a VDI name at its first slash.
func splitVDI(vdi string) (namespace, volume string) {
	if space, volume, ok := strings.Cut(vdi, "/"); ok {
		return space, volume
	}
	return "", vdi
}

// checkNamespace refuses what cannot begin a VDI name. A leading dot is kept for
// what is not a volume.
func checkNamespace(s string) error {
	if err := checkText("storage pool source name", s); err != nil {
		return err
	}
	if strings.HasPrefix(s, ".") {
		return rpc.Errorf(rpc.CodeXML, "storage pool source name '%s' begins with a dot", s)
	}
	return nil
}

// checkVolumeName refuses names that no volume of the name space can have.
func checkVolumeName(namespace, name string) error {
	if name == "" {
		return rpc.Errorf(rpc.CodeXML, "missing volume name element")
	}
	if strings.Contains(name, "/") {
		return rpc.Errorf(rpc.CodeInvalid, "volume name '%s' cannot contain '/'", name)
	}
	if err := checkText("volume name", name); err != nil {
		return err
	}
	if n := len(vdiName(namespace, name)); n > sheepdog.MaxNameLength {
		return rpc.Errorf(rpc.CodeInvalidArg, "volume name of %d bytes with its pool's name: at most %d are possible", n, sheepdog.MaxNameLength)
	}
	return nil
}

func checkText(what, s string) error {
	bad := func(why string) error { return rpc.Errorf(rpc.CodeXML, "%s '%s' %s", what, s, why) }
	switch {
	case !utf8.ValidString(s):
		return bad("is not UTF-8")
	case strings.Contains(s, "/"):
		return bad("cannot contain '/'")
	case strings.Contains(s, "@"):
		return bad("cannot contain '@', which stands before the name of a snapshot")
	case strings.ContainsFunc(s, unicode.IsControl):
		return bad("contains a control character")
	}
	return nil
}
