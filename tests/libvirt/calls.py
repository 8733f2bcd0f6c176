#!/usr/bin/python3
"""The calls of cloud managers, by python3-libvirt, at a sheep-libvirt.

calls.py URI [DIRECT-URI]: with DIRECT-URI, of the libvirtd behind it, domains and
the cost of forwarding are looked at too. Prints figures; any difference from what
is expected is an exception.
"""
import concurrent.futures
import os
import statistics
import sys
import time

import libvirt

libvirt.registerErrorHandler(lambda _ctx, _err: None, None)
uri = sys.argv[1]
direct_uri = sys.argv[2] if len(sys.argv) > 2 else None
conn = libvirt.open(uri)
PIECE = 250 * 1024


def figure(name, ms, limit=None):
    print(f"{name}: {ms:.2f} ms" + (f" (limit {limit} ms)" if limit else ""))
    # A loaded machine is given ten times the limit before the test fails.
    assert limit is None or ms < 10 * limit, name


def timed(f, *args):
    began = time.monotonic()
    result = f(*args)
    return result, (time.monotonic() - began) * 1000


def refused(code, f, *args):
    try:
        f(*args)
    except libvirt.libvirtError as e:
        assert e.get_error_code() == code, (e.get_error_code(), str(e))
        return
    raise AssertionError(f"{f} was not refused")


def at_once(f, items):
    """Calls f for all items, sixteen at a time, on one connection."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(f, items))


def make_pool(name):
    pool = conn.storagePoolDefineXML(f"<pool type='sheepdog'><name>{name}</name><source><name>{name}</name></source></pool>", 0)
    pool.build(0)
    pool.create(0)
    pool.setAutostart(1)
    pool.refresh(0)
    assert pool.info()[0] == libvirt.VIR_STORAGE_POOL_RUNNING
    assert conn.storagePoolLookupByName(name).UUIDString() == pool.UUIDString()
    assert conn.storagePoolLookupByUUIDString(pool.UUIDString()).name() == name
    return pool


def drop_pool(pool):
    at_once(lambda vol: vol.delete(0), pool.listAllVolumes())
    pool.destroy()
    pool.undefine()
    refused(libvirt.VIR_ERR_NO_STORAGE_POOL, conn.storagePoolLookupByName, pool.name())


def volume_xml(name, capacity):
    return f"<volume type='network'><name>{name}</name><capacity unit='bytes'>{capacity}</capacity><target><format type='raw'/></target></volume>"


def upload(vol, data):
    for off in range(0, len(data), PIECE):
        piece = data[off:off + PIECE]
        stream = conn.newStream(0)
        vol.upload(stream, off, len(piece), 0)
        sent = 0
        while sent < len(piece):
            sent += stream.send(piece[sent:])
        stream.finish()


def download(vol, length):
    stream, out = conn.newStream(0), bytearray()
    vol.download(stream, 0, length, 0)
    while True:
        piece = stream.recv(PIECE)
        if not piece:
            break
        out += piece
    stream.finish()
    return bytes(out)


def corecluster(bases, images):
    data = bytes(range(256)) * 8000
    base = bases.createXML(volume_xml("debian", 10 << 30), 0)
    upload(base, data)
    assert download(base, len(data)) == data
    assert base.info()[:2] == [libvirt.VIR_STORAGE_VOL_NETWORK, 10 << 30]
    xml = base.XMLDesc(0).replace("<name>debian</name>", "<name>vm0</name>")
    vm, ms = timed(images.createXMLFrom, xml, base, 0)
    figure("clone of a 10 GiB base", ms, 20)
    assert download(vm, len(data)) == data
    assert images.storageVolLookupByName("vm0").path() == vm.path() == "images/vm0"
    assert conn.storageVolLookupByPath(vm.path()).name() == "vm0"
    assert conn.storageVolLookupByKey(vm.key()).name() == "vm0"
    assert vm.storagePoolLookupByVolume().name() == "images"
    vm.resize(11 << 30, 0)
    assert vm.info()[1] == 11 << 30
    larger = images.createXMLFrom(volume_xml("larger", 12 << 30), base, 0)
    assert larger.info()[1] == 12 << 30
    times = [timed(images.createXMLFrom, volume_xml(f"row{n}", 1), base, 0)[1] for n in range(20)]
    figure("first five of 20 clones", statistics.median(times[:5]), 20)
    figure("last five of 20 clones", statistics.median(times[-5:]), 20)
    refused(libvirt.VIR_ERR_STORAGE_VOL_EXIST, images.createXMLFrom, xml, base, 0)
    base.delete(0)
    assert download(vm, len(data)) == data
    refused(libvirt.VIR_ERR_NO_STORAGE_VOL, bases.storageVolLookupByName, "debian")


def begin_and_die(name):
    """A client that is gone in the middle of an upload."""
    mine = libvirt.open(uri)
    stream = mine.newStream(0)
    mine.storagePoolLookupByName("images").storageVolLookupByName(name).upload(stream, 0, 8 << 20, 0)
    stream.send(b"x" * 200000)
    os._exit(0)


def rough(images):
    """Clients that die, that share a volume, and that are many."""
    vol = images.createXML(volume_xml("rough", 8 << 20), 0)
    dying = [os.fork() for _ in range(5)]
    if 0 in dying:
        begin_and_die("rough")
    for pid in dying:
        assert os.waitpid(pid, 0)[1] == 0
    data = bytes(range(256)) * 8192  # 2 MiB
    upload(vol, data)
    assert download(vol, len(data)) == data

    def half(part):
        other = libvirt.open(uri)
        v = other.storageVolLookupByPath(vol.path())
        stream = other.newStream(0)
        v.upload(stream, part * (4 << 20), 2 << 20, 0)
        stream.sendAll(lambda _s, n, left: left.pop(0) if left else b"", [bytes([65 + part]) * (1 << 20)] * 2)
        stream.finish()
        return other.close()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(half, (0, 1)))
    assert download(vol, 8 << 20) == b"A" * (2 << 20) + bytes(2 << 20) + b"B" * (2 << 20) + bytes(2 << 20)
    vol.delete(0)

    def visit(n):
        c = libvirt.open(uri)
        assert c.storagePoolLookupByName("images").UUIDString() == images.UUIDString()
        return c

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        many = list(pool.map(visit, range(200)))
    for c in many:
        assert c.isAlive() and c.listAllStoragePools()
    print(f"200 connections, with a look-up each: {time.monotonic() - began:.2f} s")
    for c in many:
        c.close()


def lifecycle():
    """libvirt-tck's scripts/storage: persistent and transient life."""
    xml = "<pool type='sheepdog'><name>tck</name><uuid>11111111-1111-1111-1111-111111111111</uuid></pool>"
    other = xml.replace("11111111-1111", "22222222-1111")
    pool = conn.storagePoolDefineXML(xml, 0)
    assert not pool.isActive() and pool.isPersistent() and "tck" in conn.listDefinedStoragePools()
    refused(libvirt.VIR_ERR_OPERATION_FAILED, conn.storagePoolDefineXML, other, 0)
    refused(libvirt.VIR_ERR_OPERATION_FAILED, conn.storagePoolDefineXML, xml.replace(">tck<", ">tck2<"), 0)
    refused(libvirt.VIR_ERR_OPERATION_INVALID, pool.refresh, 0)
    refused(libvirt.VIR_ERR_OPERATION_INVALID, pool.destroy)
    pool.create(0)
    assert "tck" in conn.listStoragePools() and "tck" not in conn.listDefinedStoragePools()
    refused(libvirt.VIR_ERR_OPERATION_INVALID, pool.create, 0)
    refused(libvirt.VIR_ERR_OPERATION_INVALID, pool.undefine)
    conn.storagePoolDefineXML(pool.XMLDesc(0), 0)
    pool.destroy()
    pool.delete(0)
    pool.undefine()
    pool = conn.storagePoolCreateXML(xml, 0)
    assert pool.isActive() and not pool.isPersistent()
    refused(libvirt.VIR_ERR_OPERATION_INVALID, conn.storagePoolCreateXML, xml, 0)
    names = {p.name() for p in conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_TRANSIENT)}
    assert names == {"tck"}, names
    assert "tck" in {p.name() for p in conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_SHEEPDOG)}
    assert "tck" not in {p.name() for p in conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_DIR)}
    pool.destroy()
    refused(libvirt.VIR_ERR_NO_STORAGE_POOL, conn.storagePoolLookupByName, "tck")


def thousand(images):
    have = images.numOfVolumes()
    at_once(lambda n: images.createXML(volume_xml(f"many{n}", 1 << 30), 0), range(1000 - have))
    figure("refresh of 1000 volumes", timed(images.refresh, 0)[1], 1000)
    vols, ms = timed(images.listAllVolumes, 0)
    figure("list of 1000 volumes", ms, 1000)
    assert len(vols) == 1000


DOMAIN = """<domain type='qemu'><name>{0}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><disk type='volume' device='disk'><source pool='images' volume='{0}'/><target dev='vda' bus='virtio'/></disk>
<memballoon model='none'/></devices></domain>"""


STEPS = ("clone", "define", "start")


def machine(images, base, name, flags):
    """A virtual machine from nothing to running, or to the moment before its first
    instruction; milliseconds of each step."""
    vol, clone = timed(images.createXMLFrom, volume_xml(name, 1), base, 0)
    dom, define = timed(conn.defineXML, DOMAIN.format(name))
    _, start = timed(dom.createWithFlags, flags)
    want = libvirt.VIR_DOMAIN_PAUSED if flags else libvirt.VIR_DOMAIN_RUNNING
    assert dom.state()[0] == want
    assert f"volume='{name}'" in dom.XMLDesc(0)
    return dom, vol, (clone, define, start)


def removed(made):
    """Ends machines and returns what their steps took."""
    for dom, vol, _ in made:
        dom.destroy()
        dom.undefine()
        vol.delete(0)
    return [t for _, _, t in made]


def machines(images):
    """Machines from one base of 10 GiB: five that run, and twenty in a row that
    stay paused, for those that run take the processors from the next ones."""
    base = images.createXML(volume_xml("golden", 10 << 30), 0)
    upload(base, bytes(range(256)) * 1000)
    times = removed([machine(images, base, f"running{n}", 0) for n in range(5)])
    for i, what in enumerate(STEPS):
        figure(f"{what} of a machine, median of 5", statistics.median(t[i] for t in times))
    figure("clone, define and start of a machine, median of 5", statistics.median(sum(t) for t in times), 1000)
    times = removed([machine(images, base, f"paused{n}", libvirt.VIR_DOMAIN_START_PAUSED) for n in range(20)])
    for i, what in enumerate(STEPS):
        first, last = (statistics.median(t[i] for t in part) for part in (times[:5], times[-5:]))
        print(f"{what} in a row of 20 machines: the first five {first:.2f} ms, the last five {last:.2f} ms")
    base.delete(0)


def median_call(c):
    c.getLibVersion()
    return statistics.median(timed(c.getLibVersion)[1] for _ in range(500))


if __name__ == "__main__":
    lifecycle()
    bases, images = make_pool("bases"), make_pool("images")
    corecluster(bases, images)
    rough(images)
    if direct_uri:
        machines(images)
        thousand(images)
    drop_pool(bases)
    drop_pool(images)
    if direct_uri:
        direct = libvirt.open(direct_uri)
        figure("direct call", median_call(direct))
        figure("forwarded call", median_call(conn))
    print("CALLS-OK")
