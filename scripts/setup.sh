#!/bin/sh
# Installs the Debian packages that the tests, the demo and the benchmark use, if they are
# missing. Needs root, or sudo without a password, only for what is missing.
set -eu
want="qemu-system-x86 qemu-utils nbdkit libnbd-bin python3-libnbd fio mmdebstrap e2fsprogs fdisk zstd xfsprogs iproute2 iptables libvirt-clients libvirt-daemon-system python3-libvirt"
missing=""
for p in $want; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing" >&2
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo -n"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
