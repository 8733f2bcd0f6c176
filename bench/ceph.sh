#!/bin/bash
# A Ceph of one monitor, one manager and three OSDs on loopback, in one directory:
#   ceph.sh up DIR POOL PORT   make and start it, and wait until it is healthy
#   ceph.sh down DIR           stop it
# Needs ceph-mon, ceph-mgr, ceph-osd and ceph-common. Every
# daemon's pid is in DIR/NAME.pid. Three copies, no client cache: as our disks are.
set -euo pipefail
dir=$2
export CEPH_CONF=$dir/ceph.conf
osds=3

within() { # SECONDS COMMAND...: tries until it succeeds
	local end=$((SECONDS + $1)); shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || { echo "ceph.sh: not in time: $*" >&2; return 1; }
		sleep 0.3
	done
}

daemon() { # NAME COMMAND...: runs until down, in a session of its own
	local name=$1; shift
	setsid "$@" -f --setuser root --setgroup root >>"$dir/$name.log" 2>&1 </dev/null &
	echo $! >"$dir/$name.pid"
}

configure() {
	local port=$1
	cat >"$CEPH_CONF" <<-CONF
		[global]
		fsid = $(cat /proc/sys/kernel/random/uuid)
		mon_host = [v2:127.0.0.1:$port]
		mon_initial_members = m
		public_addr = 127.0.0.1
		cluster_addr = 127.0.0.1
		keyring = $dir/keyring
		run_dir = $dir
		admin_socket = $dir/\$name.asok
		log_file = $dir/\$name.log
		crash_dir = $dir
		mon_data = $dir/mon
		mgr_data = $dir/mgr
		osd_data = $dir/osd\$id
		osd_objectstore = bluestore
		bluestore_block_size = 6442450944
		osd_memory_target = 1073741824
		osd_crush_chooseleaf_type = 0
		osd_pool_default_size = 3
		osd_pool_default_min_size = 2
		osd_pool_default_pg_autoscale_mode = off
		auth_allow_insecure_global_id_reclaim = false
		mon_data_avail_warn = 2
		mon_data_avail_crit = 1
		[client]
		log_file =
		admin_socket =
		rbd_cache = false
	CONF
}

monitor() {
	local port=$1
	ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
	ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
	monmaptool --create --fsid "$(sed -n 's/^fsid = //p' "$CEPH_CONF")" --addv m "[v2:127.0.0.1:$port]" "$dir/monmap"
	ceph-mon --mkfs -i m --monmap "$dir/monmap" --keyring "$dir/keyring"
	daemon mon ceph-mon -i m
	within 60 ceph --connect-timeout 3 mon stat
}

manager() {
	mkdir "$dir/mgr"
	ceph auth get-or-create mgr.g mon 'allow profile mgr' osd 'allow *' mds 'allow *' -o "$dir/mgr/keyring"
	daemon mgr ceph-mgr -i g --keyring "$dir/mgr/keyring"
}

osd() {
	local id=$1 uuid key
	uuid=$(cat /proc/sys/kernel/random/uuid) key=$(ceph-authtool --gen-print-key)
	mkdir "$dir/osd$id"
	echo "{\"cephx_secret\": \"$key\"}" | ceph osd new "$uuid" "$id" -i -
	ceph-authtool --create-keyring "$dir/osd$id/keyring" --name "osd.$id" --add-key "$key"
	ceph-osd -i "$id" --mkfs --osd-uuid "$uuid" --keyring "$dir/osd$id/keyring"
	daemon "osd$id" ceph-osd -i "$id" --keyring "$dir/osd$id/keyring"
}

all_up() { ceph osd stat | grep -q "$osds up"; }
healthy() { ceph health | grep -q HEALTH_OK; }

up() {
	local pool=$1 port=$2
	configure "$port"
	monitor "$port"
	manager
	for id in $(seq 0 $((osds - 1))); do osd "$id"; done
	within 90 all_up
	ceph osd pool create "$pool" 32 32
	rbd pool init "$pool"
	within 120 healthy || { ceph health detail >&2; return 1; }
}

down() {
	local f pid
	for f in "$dir"/*.pid; do
		pid=$(cat "$f" 2>/dev/null) || continue
		kill "$pid" 2>/dev/null || continue
		for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || continue 2; sleep 0.1; done
		kill -9 "$pid" 2>/dev/null || true
	done
}

case $1 in
up) up "$3" "$4" >>"$dir/up.log" 2>&1 || { tail -20 "$dir/up.log" >&2; exit 1; } ;;
down) down ;;
*) echo "usage: ceph.sh up DIR POOL PORT | down DIR" >&2; exit 2 ;;
esac
