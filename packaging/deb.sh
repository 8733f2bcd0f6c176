#!/bin/sh
# Builds a .deb of bin/sheep and bin/dog with the service, man pages and completion: packaging/deb.sh [VERSION [DIRECTORY]]
# Needs dpkg-deb and gzip. `make build` comes first.
set -eu

cd "$(dirname "$0")/.."
version=${1:-$(git describe --tags --always 2>/dev/null || echo 0)}
out=${2:-bin}
case $version in
v[0-9]*) version=${version#v} ;;
[0-9]*.[0-9]*) ;;
*) version=0~git.$version ;; # a commit is no version: older than any release
esac
arch=$(dpkg --print-architecture)

for program in sheep dog; do
	[ -x "bin/$program" ] || { echo "bin/$program is missing: run make build" >&2; exit 1; }
done

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 755 "$root"
install -Dm755 bin/sheep "$root/usr/sbin/sheep"
install -Dm755 bin/dog "$root/usr/bin/dog"
if [ -x bin/sheep-libvirt ]; then
	install -Dm755 bin/sheep-libvirt "$root/usr/sbin/sheep-libvirt"
	install -Dm644 packaging/libvirt/sheep-libvirt.service "$root/lib/systemd/system/sheep-libvirt.service"
	install -Dm644 docs/libvirt.md "$root/usr/share/doc/sheepdog/libvirt.md"
fi
install -Dm644 packaging/sheepdog.service "$root/lib/systemd/system/sheepdog.service"
install -Dm644 packaging/default "$root/etc/default/sheepdog"
install -d -m 700 "$root/var/lib/sheepdog"
install -Dm644 LICENSE "$root/usr/share/doc/sheepdog/copyright"
gzip -9nc CHANGELOG.md >"$root/usr/share/doc/sheepdog/changelog.gz"

install -d "$root/usr/share/man/man8"
bin/dog man --dir "$root/usr/share/man/man8"
gzip -9n "$root"/usr/share/man/man8/*.8

install -d "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
bin/dog completion bash >"$root/usr/share/bash-completion/completions/dog"
bin/dog completion zsh >"$root/usr/share/zsh/vendor-completions/_dog"
bin/dog completion fish >"$root/usr/share/fish/vendor_completions.d/dog.fish"

install -d "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<EOF
Package: sheepdog
Version: $version
Architecture: $arch
Maintainer: Sheepdog maintainers <sheepdog@localhost>
Section: admin
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Suggests: qemu-utils, chrony
Description: distributed block storage for virtual machines
 Every node is equal: sheep is the daemon of a node, dog administers the
 cluster. VMs reach their disks by NBD at any node.
EOF
echo /etc/default/sheepdog >"$root/DEBIAN/conffiles"
install -m755 packaging/postinst packaging/prerm packaging/postrm "$root/DEBIAN/"

mkdir -p "$out"
dpkg-deb --root-owner-group -Zgzip --build "$root" "$out/sheepdog_${version}_$arch.deb"
