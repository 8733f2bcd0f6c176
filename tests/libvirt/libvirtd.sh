#!/bin/bash
# Runs a libvirtd that touches nothing of this machine: its configuration, state,
# logs and sockets are in DIR, bound over the usual places in a mount namespace
# of its own. Root is needed. It stays in the foreground; its sockets are
# DIR/run/libvirt-sock and DIR/run/libvirt-sock-ro.
#
#   libvirtd.sh DIR [USER [HOST NBD]]
#
# USER (default root) is who QEMU runs as. HOST is the name of the host that
# libvirtd believes to be on, and NBD a directory that it and QEMU find at
# /run/sheepdog, for several libvirtds that are to take each other for hosts.
set -euo pipefail

umask 022
dir=$(readlink -f "${1:?usage: libvirtd.sh DIR [USER]}")
mkdir -p "$dir"/{etc/qemu/networks,var/images,run,cache,log}
[ -e "$dir/uuid" ] || cat /proc/sys/kernel/random/uuid > "$dir/uuid"
cat > "$dir/etc/libvirtd.conf" <<CONF
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
host_uuid = "$(cat "$dir/uuid")"
log_outputs = "3:file:$dir/log/libvirtd.log"
CONF
user=${2:-root}
group=root
[ "$user" = root ] || group=kvm
cat > "$dir/etc/qemu.conf" <<CONF
user = "$user"
group = "$group"
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
remember_owner = 0
CONF
# shellcheck disable=SC2016
exec unshare --mount --uts sh -c '
	mkdir -p /run/libvirt /var/log/libvirt
	mount --bind "$0/etc" /etc/libvirt
	mount --bind "$0/var" /var/lib/libvirt
	mount --bind "$0/run" /run/libvirt
	mount --bind "$0/cache" /var/cache/libvirt
	mount --bind "$0/log" /var/log/libvirt
	if [ -n "$1" ]; then
		hostname "$1"
		mkdir -p /run/sheepdog
		mount --bind "$2" /run/sheepdog
	fi
	# QEMU must reach /dev/kvm as udev would have it, or not see it: otherwise libvirt
	# looks at QEMU anew before every call.
	if [ -e /dev/kvm ] && [ ! -e "$0/kvm" ] && getent group kvm >/dev/null; then
		mknod -m 660 "$0/kvm" c 10 232 && chgrp kvm "$0/kvm"
	fi
	[ ! -e "$0/kvm" ] || mount --bind "$0/kvm" /dev/kvm
	exec libvirtd -p "$0/run/libvirtd.pid"' "$dir" "${3:-}" "${4:-}"
