#!/bin/bash
# From nothing to virtual machines on the cluster, with stock libvirt: three
# sheep, a libvirtd of its own, sheep-libvirt in front of it; a pool, a base, a
# clone, a guest that answers, a snapshot that the guest agent froze, and a second
# machine from the snapshot. Prints how long each step took.
#
#   demo.sh GUEST.raw       (a guest with an agent: scripts/guest-image.sh)
#
# Root is needed, and the packages libvirt-clients, libvirt-daemon-system and
# qemu-system-x86. Nothing of this machine is touched but a scratch directory.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
bin=$here/../../bin
guest=$(readlink -f "${1:?usage: demo.sh GUEST.raw}")
for tool in virsh libvirtd qemu-system-x86_64 unshare; do
	command -v $tool >/dev/null || { echo "demo-vm: $tool is missing: apt-get install libvirt-clients libvirt-daemon-system qemu-system-x86" >&2; exit 1; }
done

dir=$(mktemp -d /tmp/shvm.XXXXXX)
pids=()
finish() {
	code=$?
	[ $code = 0 ] || tail -n 20 "$dir"/*.log >&2 || :
	for vm in vm1 vm2; do v destroy $vm >/dev/null 2>&1 || :; done
	# Machines outlive libvirtd; none may be left.
	for pid in "$dir"/lv/run/qemu/*.pid; do [ ! -e "$pid" ] || kill -9 "$(cat "$pid")" 2>/dev/null || :; done
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill "${pids[i]}" 2>/dev/null || :; wait "${pids[i]}" 2>/dev/null || :; done
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
start() { # NAME COMMAND...
	local name=$1
	shift
	"$@" > "$dir/$name.log" 2>&1 &
	pids+=($!)
}
until_ok() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "demo-vm: not in time: $*" >&2; return 1; }
		sleep 0.2
	done
}
rows=()
step() { # DESCRIPTION COMMAND...
	local what=$1 began ended
	shift
	began=$(date +%s%N)
	"$@" > "$dir/out" 2>&1 || { cat "$dir/out" >&2; return 1; }
	ended=$(date +%s%N)
	rows+=("$(printf '%-52s %9.1f ms' "$what" "$(((ended - began) / 10000))e-2")")
	echo "${rows[-1]}"
}
v() { virsh -q -c "qemu+unix:///system?socket=$dir/sock" "$@"; }
port=${DEMO_PORT:-17400}

for i in 0 1 2; do
	start sheep$i "$bin/sheep" -f -c "local:$dir/local" -p $((port + i)) -z $i --nbd none "$dir/s$i"
done
three() { [ "$("$bin/dog" node list -r -p $port | wc -l)" = 3 ]; }
until_ok 30 three
"$bin/dog" cluster format --copies 3 -p $port >/dev/null
mkdir "$dir/lv"
start libvirtd "$here/../libvirt/libvirtd.sh" "$dir/lv"
until_ok 30 test -S "$dir/lv/run/libvirt-sock"
start sheep-libvirt "$bin/sheep-libvirt" --listen "$dir/sock" --upstream "$dir/lv/run/libvirt-sock" --state "$dir/state" --spool "$dir" --api 127.0.0.1:$port
until_ok 60 v list

# KVM where it works; else QEMU's own emulation, which is slow.
kind=qemu cpu=maximum
if [ "${DEMO_KVM:-auto}" = yes ]; then kind=kvm cpu=host-passthrough; fi
domain() { # NAME
	cat > "$dir/$1.xml" <<XML
<domain type='$kind'>
  <name>$1</name><memory unit='MiB'>512</memory><vcpu>1</vcpu><cpu mode='$cpu'/>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <devices>
    <disk type='volume' device='disk'><source pool='images' volume='$1'/><target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='$dir/$1.console'/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
XML
	echo "$dir/$1.xml"
}
running() { [ "$(v domstate "$1")" = running ]; }
ping() { v qemu-agent-command "$1" '{"execute":"guest-ping"}'; }

step 'define and start the pool' eval 'v pool-define-as images sheepdog --source-host localhost --source-name images && v pool-start images'
v vol-create-as images base "$(stat -c %s "$guest")B"
step 'upload the base' v vol-upload --sparse --pool images base "$guest"
v domcapabilities >/dev/null # libvirt looks at QEMU once, which takes seconds
step 'clone the base' v vol-clone --pool images base vm1
step 'define the first machine' v define "$(domain vm1)"
step 'start it' v start vm1
running vm1
step 'until its guest agent answers' until_ok "${DEMO_BOOT:-600}" ping vm1
step 'snapshot, frozen by the guest agent' v snapshot-create-as vm1 golden --disk-only --quiesce
step 'clone the snapshot' "$bin/dog" vdi clone -s golden images/vm1 images/vm2 -p $port
step 'define the second machine' v define "$(domain vm2)"
step 'start it' v start vm2
running vm2
step 'until its guest agent answers' until_ok "${DEMO_BOOT:-600}" ping vm2
step 'until the first one answers (it thawed)' ping vm1
v snapshot-list vm1
v vol-list images --details
echo DEMO-VM-OK
