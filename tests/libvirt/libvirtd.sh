#!/bin/bash
# Runs a libvirtd that touches nothing of this machine: its configuration, state,
# logs and sockets are in DIR, bound over the usual places in a mount namespace
# of its own. Root is needed. It stays in the foreground; its sockets are
# DIR/run/libvirt-sock and DIR/run/libvirt-sock-ro.
#
#   libvirtd.sh DIR
set -euo pipefail

dir=$(readlink -f "${1:?usage: libvirtd.sh DIR}")
mkdir -p "$dir"/{etc/qemu/networks,var/images,run,cache,log}
[ -e "$dir/uuid" ] || cat /proc/sys/kernel/random/uuid > "$dir/uuid"
cat > "$dir/etc/libvirtd.conf" <<CONF
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
host_uuid = "$(cat "$dir/uuid")"
log_outputs = "3:file:$dir/log/libvirtd.log"
CONF
cat > "$dir/etc/qemu.conf" <<'CONF'
user = "root"
group = "root"
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
remember_owner = 0
CONF
# shellcheck disable=SC2016
exec unshare --mount sh -c '
	mkdir -p /run/libvirt /var/log/libvirt
	mount --bind "$0/etc" /etc/libvirt
	mount --bind "$0/var" /var/lib/libvirt
	mount --bind "$0/run" /run/libvirt
	mount --bind "$0/cache" /var/cache/libvirt
	mount --bind "$0/log" /var/log/libvirt
	exec libvirtd -p "$0/run/libvirtd.pid"' "$dir"
