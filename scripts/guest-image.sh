#!/bin/bash
# Builds a small Debian 12 guest from Debian's packages, for the demo and the
# tests: a raw disk with one ext4 partition that boots by itself, logs root in on
# the serial console and prints GUEST-READY there once it is up.
#
#   guest-image.sh OUT.raw [SIZE]          SIZE defaults to 2G
#
# It needs root and the packages of setup.sh. Nothing is mounted, and no loop
# device is used: mke2fs copies a directory into the partition, and the guest
# installs its own boot loader when it is booted once with its kernel given from
# outside. A finished image is left alone.
set -euo pipefail

out=$(readlink -m "${1:?usage: guest-image.sh OUT.raw [SIZE]}")
size=${2:-2G}
[ ! -s "$out" ] || exit 0

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

packages=(linux-image-cloud-amd64 systemd-sysv udev kmod initramfs-tools e2fsprogs
	qemu-guest-agent util-linux procps grub-pc zstd)

# The initramfs needs few drivers; grub's package must not look for a disk.
cat > "$work/before.sh" <<'HOOK'
#!/bin/sh
set -e
mkdir -p "$1/etc/initramfs-tools/conf.d"
echo 'MODULES=list' > "$1/etc/initramfs-tools/conf.d/guest"
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ext4 crc32c_generic > "$1/etc/initramfs-tools/modules"
HOOK
cat > "$work/early.sh" <<'HOOK'
#!/bin/sh
set -e
echo 'grub-pc grub-pc/install_devices_empty boolean true' | chroot "$1" debconf-set-selections
HOOK
cat > "$work/late.sh" <<'HOOK'
#!/bin/sh
set -e
cd "$1"
echo guest > etc/hostname
echo '127.0.0.1 localhost guest' > etc/hosts
echo '/dev/vda1 / ext4 noatime,errors=remount-ro 0 1' > etc/fstab
chroot . passwd -q -d root

unit=etc/systemd/system
mkdir -p $unit/serial-getty@ttyS0.service.d boot/grub
cat > $unit/serial-getty@ttyS0.service.d/login.conf <<'U'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - dumb
U
cat > $unit/announce.service <<'U'
[Unit]
Description=Tell the console that the guest is up
After=systemd-user-sessions.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo GUEST-READY > /dev/ttyS0'
[Install]
WantedBy=multi-user.target
U
# An emulated guest on a busy host is slow: do not give its devices up.
mkdir -p etc/systemd/system.conf.d
cat > etc/systemd/system.conf.d/slow.conf <<'U'
[Manager]
DefaultDeviceTimeoutSec=600
DefaultTimeoutStartSec=600
U
# Runs only in the boot that this script makes.
cat > $unit/bootloader.service <<'U'
[Unit]
ConditionKernelCommandLine=guest.bootloader
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'grub-install --target=i386-pc /dev/vda && sync && echo BOOTLOADER-OK > /dev/ttyS0; systemctl --no-block poweroff'
[Install]
WantedBy=multi-user.target
U
cat > boot/grub/grub.cfg <<'U'
set timeout=0
linux /vmlinuz root=/dev/vda1 ro console=ttyS0,115200 net.ifnames=0 quiet
initrd /initrd.img
boot
U
chroot . systemctl -q enable announce bootloader serial-getty@ttyS0
for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service; do
	chroot . systemctl -q disable $u 2>/dev/null || :
done
rm -rf usr/share/doc/* usr/share/man/* usr/share/locale/* var/cache/apt/* var/lib/apt/lists/*
HOOK
chmod 755 "$work"/*.sh

echo "guest image: installing Debian packages" >&2
mmdebstrap --quiet --mode=root --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
	--setup-hook="$work/before.sh \"\$1\"" --essential-hook="$work/early.sh \"\$1\"" --customize-hook="$work/late.sh \"\$1\"" \
	bookworm "$root"
cp -L "$root/vmlinuz" "$work/vmlinuz"
cp -L "$root/initrd.img" "$work/initrd"

echo "guest image: making the disk" >&2
truncate -s "$size" "$work/disk"
echo 'start=2048, type=83, bootable' | sfdisk -q "$work/disk"
kib=$(( $(stat -c %s "$work/disk") / 1024 - 1024 ))
mke2fs -q -t ext4 -L root -E offset=1048576,lazy_itable_init=0,lazy_journal_init=0 -d "$root" "$work/disk" "${kib}k"

echo "guest image: the guest installs its boot loader" >&2
timeout 900 qemu-system-x86_64 -machine pc,accel=tcg -cpu max -m 512 -nodefaults -nographic -no-reboot \
	-serial "file:$work/console" -kernel "$work/vmlinuz" -initrd "$work/initrd" \
	-append 'root=/dev/vda1 rw console=ttyS0,115200 net.ifnames=0 guest.bootloader' \
	-drive "file=$work/disk,format=raw,if=virtio,cache=unsafe,discard=unmap"
if ! grep -q BOOTLOADER-OK "$work/console"; then
	tail -40 "$work/console" >&2
	echo "guest image: the boot loader was not installed" >&2
	exit 1
fi
e2fsck -fn "$work/disk?offset=1048576" >/dev/null 2>&1 || { echo "guest image: file system is damaged" >&2; exit 1; }
mv "$work/disk" "$out"
