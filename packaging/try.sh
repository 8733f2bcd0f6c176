#!/bin/sh
# Installs OLD.deb on a copy of this machine's file system, upgrades it to NEW.deb, removes and purges it, and looks after
# each step: packaging/try.sh OLD.deb NEW.deb
# The copy is an overlay in memory, in a mount namespace of its own: the machine sees nothing of it. Needs root. There is no
# systemd in it; a stand-in writes down what the package's scripts ask for.
set -eu

if [ -z "${TRY_ROOT:-}" ]; then
	TRY_ROOT=$(mktemp -d)
	export TRY_ROOT
	trap 'rmdir "$TRY_ROOT"' EXIT
	unshare --mount --propagation private "$0" "$@"
	exit
fi
fail() { echo "$*" >&2; exit 1; }

mount -t tmpfs none "$TRY_ROOT"
mkdir "$TRY_ROOT/upper" "$TRY_ROOT/work" "$TRY_ROOT/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$TRY_ROOT/upper,workdir=$TRY_ROOT/work" "$TRY_ROOT/root"
root=$TRY_ROOT/root
mount -t proc proc "$root/proc"
mount -t tmpfs none "$root/run"
mount --rbind /dev "$root/dev"
cp "$1" "$root/run/old.deb"
cp "$2" "$root/run/new.deb"

mkdir -p "$root/run/systemd/system"
cat >"$root/usr/local/sbin/systemctl" <<'EOF'
#!/bin/sh
echo "$*" >>/run/asked
EOF
chmod 755 "$root/usr/local/sbin/systemctl"

inside() { chroot "$root" env PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@" </dev/null; }
# asked WANT: the scripts of the last step wanted this of systemd.
asked() {
	got=$(cat "$root/run/asked" 2>/dev/null || true)
	[ "$got" = "$1" ] || fail "systemctl was asked for
$got
and not for
$1"
	rm -f "$root/run/asked"
}

inside dpkg --no-triggers --install /run/old.deb
[ "$(inside dpkg-query -W -f '${Status}' sheepdog)" = 'install ok installed' ] || fail 'the package is not installed'
[ -z "$(inside dpkg --verify sheepdog)" ] || fail 'installed files differ from the package'
asked 'daemon-reload
enable --now sheepdog.service'
inside getent group kvm >/dev/null || fail 'there is no group kvm'
[ "$(stat -c %a "$root/var/lib/sheepdog")" = 700 ] || fail '/var/lib/sheepdog is open to others'
for program in sheep dog sheep-libvirt; do
	inside "$program" --version >/dev/null || fail "$program does not run"
done
for completion in /usr/share/bash-completion/completions/dog; do
	inside bash -n "$completion" || fail "$completion is no script"
done
if [ -x "$root/usr/bin/systemd-analyze" ]; then
	# Of units it needs that are not installed here it says nothing to the point.
	said=$(inside systemd-analyze --man=no verify sheepdog.service 2>&1 | grep sheepdog.service || true)
	[ -z "$said" ] || fail "systemd finds in sheepdog.service: $said"
	said=$(inside systemd-analyze --man=no verify sheep-libvirt.service 2>&1 | grep '/sheep-libvirt.service' || true)
	[ -z "$said" ] || fail "systemd finds in sheep-libvirt.service: $said"
else
	echo 'SKIPPED: systemd-analyze is not installed, the units were not verified'
fi

echo 'SHEEP_OPTIONS="-p 7123"' >>"$root/etc/default/sheepdog"
echo replicas >"$root/var/lib/sheepdog/data"
inside dpkg --no-triggers --install /run/new.deb
asked 'daemon-reload
daemon-reload
try-restart sheepdog.service sheep-libvirt.service'
grep -q 'p 7123' "$root/etc/default/sheepdog" || fail 'an upgrade loses the configuration'

inside dpkg --no-triggers --remove sheepdog
asked 'disable --now sheepdog.service sheep-libvirt.service
daemon-reload'
[ ! -e "$root/usr/sbin/sheep" ] || fail 'a removal leaves programs'
grep -q 'p 7123' "$root/etc/default/sheepdog" || fail 'a removal loses the configuration'

inside dpkg --no-triggers --purge sheepdog
[ ! -e "$root/etc/default/sheepdog" ] || fail 'a purge leaves the configuration'
[ -e "$root/var/lib/sheepdog/data" ] || fail 'a purge loses data'
echo 'INSTALLS-OK'
