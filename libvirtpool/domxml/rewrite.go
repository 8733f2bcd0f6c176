package domxml

import (
	"strconv"
	"strings"
)

// ToNBD rewrites disks that name our volumes. XML that cannot be parsed is
// returned as it is: libvirt says best what is wrong with it.
func (r Rewriter) ToNBD(text string) string { return r.each(text, r.toNBD) }

// FromNBD shows disks at our gateway as volumes, or, where their name space has
// no pool, by their VDI's name.
func (r Rewriter) FromNBD(text string) string { return r.each(text, r.fromNBD) }

// each replaces the disks that f changes.
func (r Rewriter) each(text string, f func(*element) bool) string {
	if !strings.Contains(text, "<disk") {
		return text
	}
	list, err := disks(text)
	if err != nil {
		return text
	}
	var b strings.Builder
	last := int64(0)
	for _, d := range list {
		if f(d.disk) {
			b.WriteString(text[last:d.from])
			d.disk.write(&b)
			last = d.to
		}
	}
	b.WriteString(text[last:])
	return b.String()
}

// Disks lists the disks of a domain that hold data: ours, and others that the
// guest can write to.
func (r Rewriter) Disks(text string) ([]Disk, error) {
	list, err := disks(text)
	if err != nil {
		return nil, err
	}
	var out []Disk
	for _, d := range list {
		target := d.disk.child("target")
		if target == nil || d.disk.child("readonly") != nil {
			continue
		}
		if kind := d.disk.get("device"); kind != "" && kind != "disk" && kind != "lun" {
			continue
		}
		vdi, ours := r.named(d.disk)
		if !ours {
			vdi, ours = r.served(d.disk)
		}
		out = append(out, Disk{Target: target.get("dev"), VDI: vdi, Ours: ours, Apart: leftOut(d.disk.get("snapshot"))})
	}
	return out, nil
}

// Targets lists the names that all disks have in the guest, of any kind.
func Targets(text string) (names []string) {
	list, err := disks(text)
	if err != nil {
		return nil
	}
	for _, d := range list {
		if target := d.disk.child("target"); target != nil {
			names = append(names, target.get("dev"))
		}
	}
	return names
}

// leftOut reports whether a disk with that attribute snapshot is no part of snapshots.
func leftOut(snapshot string) bool { return snapshot == "no" || snapshot == "manual" }

// Sources lists all disks, of any device, whose data are VDIs.
func (r Rewriter) Sources(text string) (out []Disk) {
	list, err := disks(text)
	if err != nil {
		return nil // libvirt says best what is wrong with it
	}
	for _, d := range list {
		vdi, ours := r.named(d.disk)
		if !ours {
			vdi, ours = r.served(d.disk)
		}
		if target := d.disk.child("target"); ours && target != nil {
			out = append(out, Disk{Target: target.get("dev"), VDI: vdi, Ours: true})
		}
	}
	return out
}

// UnknownPool is a pool of which a disk is a volume, and of which it is not known
// whose it is; empty: none.
func (r Rewriter) UnknownPool(text string) (pool string) {
	if !strings.Contains(text, "pool=") {
		return ""
	}
	list, err := disks(text)
	if err != nil {
		return ""
	}
	for _, d := range list {
		source := d.disk.child("source")
		if d.disk.get("type") != "volume" || source == nil {
			continue
		}
		if _, ours := r.Pools.NamespaceOfPool(source.get("pool")); !ours {
			return source.get("pool")
		}
	}
	return ""
}

// named is the VDI of a disk that names a volume of ours.
func (r Rewriter) named(disk *element) (string, bool) {
	source := disk.child("source")
	if source == nil {
		return "", false
	}
	switch {
	case disk.get("type") == "volume":
		space, ours := r.Pools.NamespaceOfPool(source.get("pool"))
		return join(space, source.get("volume")), ours && source.get("volume") != ""
	case disk.get("type") == "network" && source.get("protocol") == "sheepdog":
		return source.get("name"), source.get("name") != ""
	}
	return "", false
}

// served is the VDI of an NBD disk at our gateway.
func (r Rewriter) served(disk *element) (string, bool) {
	source := disk.child("source")
	if source == nil || disk.get("type") != "network" || source.get("protocol") != "nbd" || source.get("name") == "" {
		return "", false
	}
	host := source.child("host")
	return source.get("name"), host != nil && host.get("transport") == "unix" && host.get("socket") == r.Socket
}

func (r Rewriter) toNBD(disk *element) bool {
	vdi, ok := r.named(disk)
	if !ok {
		return false
	}
	source := disk.child("source")
	source.drop("pool", "volume", "mode", "startupPolicy", "protocol", "name")
	source.attr = append([]attribute{{"protocol", "nbd"}, {"name", vdi}}, source.attr...)
	source.dropChildren("host", "reconnect", "seclabel")
	kids := []*element{{name: "host", attr: []attribute{{"transport", "unix"}, {"socket", r.Socket}}}}
	if r.Reconnect > 0 {
		kids = append(kids, &element{name: "reconnect", attr: []attribute{{"delay", strconv.Itoa(r.Reconnect)}}})
	}
	source.kids = append(kids, source.kids...)
	disk.set("type", "network")
	r.drive(disk)
	return true
}

// drive says how QEMU should treat the disk, where the user has not said so:
// discarded space goes back to the cluster, the gateway caches and not the host,
// and an error, such as a gateway that restarts, pauses the guest, which can be
// resumed, instead of breaking its file systems.
func (r Rewriter) drive(disk *element) {
	driver := disk.child("driver")
	if driver == nil {
		driver = &element{name: "driver"}
		disk.kids = append([]*element{driver}, disk.kids...)
	}
	driver.initial("name", "qemu")
	driver.set("type", "raw")
	driver.initial("cache", "none")
	if kind := disk.get("device"); kind == "" || kind == "disk" {
		driver.initial("error_policy", "stop")
		driver.initial("rerror_policy", "stop")
		driver.initial("discard", "unmap")
	}
}

func (r Rewriter) fromNBD(disk *element) bool {
	vdi, ok := r.served(disk)
	if !ok {
		return false
	}
	source := disk.child("source")
	source.drop("protocol", "name", "tls")
	source.dropChildren("host", "reconnect")
	space, volume := split(vdi)
	if pool, ok := r.Pools.PoolOfNamespace(space); ok && volume != "" && !strings.Contains(vdi, "@") {
		disk.set("type", "volume")
		source.attr = append([]attribute{{"pool", pool}, {"volume", volume}}, source.attr...)
		return true
	}
	source.attr = append([]attribute{{"protocol", "sheepdog"}, {"name", vdi}}, source.attr...)
	return true
}
