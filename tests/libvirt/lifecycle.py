#!/usr/bin/python3
"""The life of a pool and its volumes, told as a trace that does not depend on the
kind of pool: what libvirt's own test kit asks in its storage scripts, in our
words. Two traces that are equal mean that two pools behave alike.

lifecycle.py URI KIND PATH: KIND is dir (PATH is then a directory to make pools
in) or sheepdog. Pools that others have are not touched.
"""
import os
import sys
import time

import libvirt

libvirt.registerErrorHandler(lambda _ctx, _err: None, None)
uri, kind, path = sys.argv[1:4]
libvirt.virEventRegisterDefaultImpl()
conn = libvirt.open(uri)
U1 = "11111111-1111-1111-1111-111111111111"
U2 = "22222222-1111-1111-1111-111111111111"
NAMES = ("tck1", "tck2")
FLAGS = [n for n in dir(libvirt) if n.startswith("VIR_CONNECT_LIST_STORAGE_POOLS_")]


def pool_xml(name="tck1", uuid=None, source=None):
    ident = f"<uuid>{uuid}</uuid>" if uuid else ""
    source = source or name
    where = f"<target><path>{path}/{source}</path></target>" if kind == "dir" else f"<source><name>{source}</name></source>"
    return f"<pool type='{kind}'><name>{name}</name>{ident}{where}</pool>"


def vol_xml(name, capacity=1 << 20):
    return f"<volume><name>{name}</name><capacity>{capacity}</capacity><allocation>0</allocation><target><format type='raw'/></target></volume>"


def show(value):
    if isinstance(value, libvirt.virStoragePool):
        return f"pool {value.name()}"
    if isinstance(value, libvirt.virStorageVol):
        return f"volume {value.name()}"
    if isinstance(value, list):
        return sorted(show(v) for v in value if not isinstance(v, (str, libvirt.virStoragePool)) or name_of(v) in NAMES)
    return value


def name_of(v):
    return v if isinstance(v, str) else v.name()


def step(what, f, *args):
    """Runs f and tells how it went."""
    try:
        result = f(*args)
    except libvirt.libvirtError as e:
        print(f"{what}: error {e.get_error_code()} of domain {e.get_error_domain()}")
        return None
    print(f"{what}: {show(result)}")
    return result


def state(pool):
    return pool.info()[0], pool.isActive(), pool.isPersistent(), pool.autostart()


def gone(name="tck1"):
    step(f"lookup of {name} that is gone", conn.storagePoolLookupByName, name)


def case(f):
    print(f"--- {f.__name__}: {f.__doc__}")
    for source in NAMES + ("other", "third") if kind == "dir" else ():
        os.makedirs(f"{path}/{source}", exist_ok=True)
    f()
    for p in conn.listAllStoragePools():
        if p.name() in NAMES:
            raise AssertionError(f"{f.__name__} leaves {p.name()}")


def transient():
    """a transient pool is gone when it is destroyed"""
    p = step("create", conn.storagePoolCreateXML, pool_xml(), 0)
    print(state(p))
    step("lookup", conn.storagePoolLookupByName, "tck1")
    step("autostart", p.setAutostart, 1)
    step("undefine", p.undefine)
    step("destroy", p.destroy)
    gone()
    step("use of what is gone", p.refresh, 0)


def persistent():
    """a persistent pool is there until it is undefined"""
    p = step("define", conn.storagePoolDefineXML, pool_xml(), 0)
    step("undefine", p.undefine)
    gone()
    p = step("define again", conn.storagePoolDefineXML, pool_xml(), 0)
    print(state(p))
    step("build", p.build, 0)
    step("start", p.create, 0)
    print(state(p))
    step("start again", p.create, 0)
    step("build while it runs", p.build, 0)
    step("undefine while it runs", p.undefine)
    step("delete while it runs", p.delete, 0)
    step("destroy", p.destroy)
    print(state(conn.storagePoolLookupByName("tck1")))
    step("undefine", p.undefine)
    gone()


def autostart():
    """autostart is kept over definitions"""
    p = step("define", conn.storagePoolDefineXML, pool_xml(uuid=U1), 0)
    step("off at first", p.autostart)
    step("on", p.setAutostart, 1)
    step("on again", p.setAutostart, 1)
    step("now", p.autostart)
    step("define over it", conn.storagePoolDefineXML, pool_xml(uuid=U1), 0)
    step("still", p.autostart)
    step("off", p.setAutostart, 0)
    step("now", p.autostart)
    p.undefine()


def redefine():
    """a definition of the same name and UUID replaces the old one"""
    first = conn.storagePoolDefineXML(pool_xml(uuid=U1), 0)
    second = step("other source", conn.storagePoolDefineXML, pool_xml(uuid=U1, source="other"), 0)
    print("other" in second.XMLDesc(0), first.UUIDString() == second.UUIDString())
    second.build(0)
    second.create(0)
    step("while it runs", conn.storagePoolDefineXML, pool_xml(uuid=U1, source="third"), 0)
    print("other" in second.XMLDesc(0), "third" in second.XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE))
    second.destroy()
    print("third" in second.XMLDesc(0))
    second.undefine()


def made_persistent():
    """a transient pool becomes persistent"""
    p = step("create", conn.storagePoolCreateXML, pool_xml(uuid=U1), 0)
    step("define", conn.storagePoolDefineXML, pool_xml(uuid=U1), 0)
    print(state(p))
    step("destroy", p.destroy)
    print(state(conn.storagePoolLookupByName("tck1")))
    p.undefine()


def unique(make):
    same, name, ident, both = pool_xml(uuid=U1), pool_xml("tck2", U1), pool_xml(uuid=U2), pool_xml("tck2", U2)
    p = step("first", conn.storagePoolDefineXML, same, 0)
    for running in (False, True):
        if running:
            step("start", p.create, 0)
        print("running" if running else "not running")
        step("same name and UUID", make, same, 0)
        if not running and p.isActive():
            step("stop", p.destroy)
        step("same UUID, other name", make, name, 0)
        step("same name, other UUID", make, ident, 0)
        step("no UUID, same name", make, pool_xml(), 0)
        other = step("other name and UUID", make, both, 0)
        if other.isActive():
            step("destroy the other", other.destroy)
        if "tck2" in [q.name() for q in conn.listAllStoragePools()]:
            step("undefine the other", other.undefine)
        gone("tck2")
    step("stop", p.destroy)
    step("undefine", p.undefine)
    gone()


def unique_define():
    """names and UUIDs are unique among definitions"""
    unique(conn.storagePoolDefineXML)


def unique_create():
    """names and UUIDs are unique among transient pools"""
    unique(conn.storagePoolCreateXML)


def new_uuid():
    """a name that comes back with another UUID has that one"""
    for u in (U1, U2):
        p = step("create", conn.storagePoolCreateXML, pool_xml(uuid=u), 0)
        print(p.UUIDString() == u, conn.storagePoolLookupByUUIDString(u).name())
        p.destroy()
        gone()
    step("the old UUID", conn.storagePoolLookupByUUIDString, U1)


def inactive():
    """what an inactive pool does not do"""
    p = conn.storagePoolDefineXML(pool_xml(), 0)
    for what, f, args in (("destroy", p.destroy, ()), ("refresh", p.refresh, (0,)), ("number of volumes", p.numOfVolumes, ()),
                          ("list", p.listVolumes, ()), ("list all", p.listAllVolumes, (0,)), ("lookup", p.storageVolLookupByName, ("x",)),
                          ("create a volume", p.createXML, (vol_xml("x"), 0))):
        step(what, f, *args)
    print(p.info())
    p.undefine()


def lists():
    """lists by every flag"""
    p = conn.storagePoolDefineXML(pool_xml(), 0)
    q = conn.storagePoolCreateXML(pool_xml("tck2"), 0)
    p.setAutostart(1)
    for flag in sorted(FLAGS):
        # The types differ by design; all others must not.
        if flag.rsplit("_", 1)[1] in ("ACTIVE", "INACTIVE", "PERSISTENT", "TRANSIENT", "AUTOSTART") or flag.endswith("NO_AUTOSTART"):
            step(flag, conn.listAllStoragePools, getattr(libvirt, flag))
    mine = getattr(libvirt, f"VIR_CONNECT_LIST_STORAGE_POOLS_{kind.upper()}")
    for extra in (0, libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE, libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_TRANSIENT | libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE):
        step(f"my type and {extra}", conn.listAllStoragePools, mine | extra)
    step("another type", conn.listAllStoragePools, libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_GLUSTER)
    step("active", conn.listStoragePools)
    step("defined", conn.listDefinedStoragePools)
    print(conn.numOfStoragePools() == len(conn.listStoragePools()), conn.numOfDefinedStoragePools() == len(conn.listDefinedStoragePools()))
    q.destroy()
    p.undefine()


def volumes():
    """the life of volumes"""
    p = conn.storagePoolCreateXML(pool_xml(), 0)
    v = step("create", p.createXML, vol_xml("one", 50 << 20), 0)
    print(v.info()[1], v.name(), conn.storageVolLookupByKey(v.key()).name(), conn.storageVolLookupByPath(v.path()).name())
    print(f"<key>{v.key()}</key>" in v.XMLDesc(0), f"<path>{v.path()}</path>" in v.XMLDesc(0), v.storagePoolLookupByVolume().name())
    step("create again", p.createXML, vol_xml("one"), 0)
    step("a broken document", p.createXML, "<volume>", 0)
    step("no name", p.createXML, "<volume><capacity>1</capacity></volume>", 0)
    step("a slash", p.createXML, vol_xml("a/b"), 0)
    step("no capacity that is a number", p.createXML, vol_xml("x", "many"), 0)
    step("lookup of none", p.storageVolLookupByName, "none")
    step("key of none", conn.storageVolLookupByKey, "/none/there")
    step("path of none", conn.storageVolLookupByPath, "/none/there")
    w = step("clone", p.createXMLFrom, vol_xml("two"), v, 0)
    step("clone again", p.createXMLFrom, vol_xml("two"), v, 0)
    step("volumes", p.listVolumes)
    print(sorted(x.name() for x in p.listAllVolumes(0)), sorted(p.listVolumes()), p.numOfVolumes())
    step("shrink", w.resize, 1 << 20, 0)
    step("grow", w.resize, 60 << 20, 0)
    step("by so much", w.resize, 1 << 20, libvirt.VIR_STORAGE_VOL_RESIZE_DELTA)
    print(w.info()[1])
    step("wipe", v.wipe, 0)
    step("delete", v.delete, 0)
    step("delete again", v.delete, 0)
    step("info of what is gone", v.info)
    step("clone of what is gone", p.createXMLFrom, vol_xml("three"), v, 0)
    step("delete", w.delete, 0)
    p.destroy()


def send(vol, data, off, length, flags=0):
    stream = conn.newStream(0)
    vol.upload(stream, off, length, flags)
    try:
        while data:
            data = data[stream.send(data):]
        stream.finish()
    except libvirt.libvirtError:
        try:
            stream.abort()
        except libvirt.libvirtError:
            pass
        raise


def receive(vol, off, length, flags=0):
    stream, out = conn.newStream(0), bytearray()
    vol.download(stream, off, length, flags)
    while True:
        piece = stream.recv(256 << 10)
        if not piece:
            stream.finish()
            return bytes(out)
        out += piece


def streams():
    """uploads and downloads"""
    p = conn.storagePoolCreateXML(pool_xml(), 0)
    v = p.createXML(vol_xml("one"), 0)
    data = bytes(range(1, 256)) * 1028
    step("upload", send, v, data, 0, len(data))
    print(receive(v, 0, len(data)) == data)
    step("upload at an offset", send, v, data, 333, len(data))
    print(receive(v, 333, len(data)) == data, receive(v, 0, 333) == data[:333], len(receive(v, 0, 0)))
    step("nothing", send, v, b"", 0, 0)
    step("download behind the end", receive, v, 2 << 20, 1)
    print(receive(v, (1 << 20) - 5, 100))
    for what, f in (("all", lambda s: v.upload(s, 0, 0, 0)), ("all down", lambda s: v.download(s, 0, 0, 0))):
        s = conn.newStream(0)
        f(s)
        step(f"abort of {what}", s.abort)
    v.delete(0)
    p.destroy()


def events():
    """events of a life"""
    seen = []
    conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, lambda _c, p, e, d, _o: seen.append((p.name(), e, d)), None)
    conn.storagePoolEventRegisterAny(None, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH, lambda _c, p, _o: seen.append((p.name(), "refresh")), None)
    p = conn.storagePoolDefineXML(pool_xml(), 0)
    p.build(0)
    p.create(0)
    p.refresh(0)
    p.destroy()
    p.delete(0)
    p.undefine()
    deadline = time.monotonic() + 10
    while not any(e[1] == libvirt.VIR_STORAGE_POOL_EVENT_UNDEFINED for e in seen) and time.monotonic() < deadline:
        libvirt.virEventRunDefaultImpl()
    print(seen)


def stale():
    """a handle of a pool that is gone does not reach the next one of its name"""
    old = conn.storagePoolCreateXML(pool_xml(uuid=U1), 0)
    old.destroy()
    new = conn.storagePoolCreateXML(pool_xml(uuid=U2), 0)
    new.createXML(vol_xml("one"), 0)
    for what, f, args in (("info", old.info, ()), ("XML", old.XMLDesc, (0,)), ("refresh", old.refresh, (0,)), ("volumes", old.listVolumes, ()),
                          ("all volumes", old.listAllVolumes, ()), ("number", old.numOfVolumes, ()), ("lookup", old.storageVolLookupByName, ("one",)),
                          ("create a volume", old.createXML, (vol_xml("two"), 0)), ("is active", old.isActive, ()), ("autostart", old.autostart, ()),
                          ("destroy", old.destroy, ()), ("undefine", old.undefine, ()), ("delete", old.delete, (0,)), ("start", old.create, (0,))):
        step(what, f, *args)
    print(new.isActive(), [v.name() for v in new.listAllVolumes()])
    new.storageVolLookupByName("one").delete(0)
    new.destroy()


def flags():
    """flags that nobody knows are refused"""
    odd = 1 << 20
    p = conn.storagePoolDefineXML(pool_xml(uuid=U1), 0)
    for what, f, args in (("define", conn.storagePoolDefineXML, (pool_xml(uuid=U1), odd)), ("create", conn.storagePoolCreateXML, (pool_xml("tck2"), odd)),
                          ("start", p.create, (odd,)), ("build", p.build, (odd,)), ("delete", p.delete, (odd,)), ("XML", p.XMLDesc, (odd,)),
                          ("list", conn.listAllStoragePools, (1 << 30,))):
        step(what, f, *args)
    p.create(0)
    v = p.createXML(vol_xml("one"), 0)
    for what, f, args in (("refresh", p.refresh, (odd,)), ("all volumes", p.listAllVolumes, (odd,)), ("create a volume", p.createXML, (vol_xml("two"), odd)),
                          ("clone", p.createXMLFrom, (vol_xml("two"), v, odd)), ("volume XML", v.XMLDesc, (odd,)), ("volume info", v.infoFlags, (odd,)),
                          ("resize", v.resize, (2 << 20, odd)), ("wipe", v.wipe, (odd,)), ("wipe with a pattern", v.wipePattern, (0, odd)),
                          ("a pattern that nobody knows", v.wipePattern, (99, 0)),
                          ("upload", lambda: v.upload(conn.newStream(0), 0, 0, odd), ()), ("download", lambda: v.download(conn.newStream(0), 0, 0, odd), ()),
                          ("delete a volume", v.delete, (odd,)), ("physical size", lambda: len(v.infoFlags(1)), ())):
        step(what, f, *args)
    print(sorted(p.listVolumes()), v.info()[1])
    v.delete(0)
    p.destroy()
    p.undefine()


def documents():
    """XML of pools and volumes that is wrong in one way"""
    good = pool_xml(uuid=U1)
    for what, xml in (("no name", good.replace("<name>tck1</name>", "", 1)), ("an empty name", good.replace("<name>tck1</name>", "<name></name>", 1)),
                      ("a slash", good.replace("<name>tck1</name>", "<name>a/b</name>", 1)), ("a UUID that is none", good.replace(U1, "1234")),
                      ("no type", good.replace(f"type='{kind}'", "", 1)), ("a type that nobody knows", good.replace(f"type='{kind}'", "type='quobyte'", 1)),
                      ("another document", "<volume/>"), ("no document", "pool"), ("nothing", "")):
        step(what, conn.storagePoolDefineXML, xml, 0)
        step(what + ", transient", conn.storagePoolCreateXML, xml, 0)
    p = conn.storagePoolCreateXML(good, 0)
    for what, xml in (("no capacity", "<volume><name>x</name></volume>"), ("a negative capacity", vol_xml("x", -1)), ("an empty name", vol_xml("")),
                      ("a capacity with a unit that nobody knows", vol_xml("x").replace("<capacity>", "<capacity unit='parsec'>")),
                      ("a capacity that overflows", vol_xml("x", 1 << 60).replace("<capacity>", "<capacity unit='EiB'>")),
                      ("a format that nobody knows", vol_xml("x").replace("'raw'", "'wood'")),
                      ("a backing volume that is not there", vol_xml("x").replace("<target>", "<backingStore><path>/none/there</path></backingStore><target>")),
                      ("another document", "<pool/>"), ("nothing", "")):
        step(what, p.createXML, xml, 0)
        for v in p.listAllVolumes():
            v.delete(0)
    v = p.createXML(vol_xml("one", 0), 0)
    step("resize beyond everything", v.resize, 1 << 62, 0)
    step("resize by more than there is", v.resize, 1 << 62, libvirt.VIR_STORAGE_VOL_RESIZE_DELTA | libvirt.VIR_STORAGE_VOL_RESIZE_SHRINK)
    step("clone onto itself", p.createXMLFrom, vol_xml("one"), v, 0)
    v.delete(0)
    p.destroy()


if __name__ == "__main__":
    # A timer, so that the loop of events comes back.
    libvirt.virEventAddTimeout(100, lambda _t, _o: None, None)
    for c in (transient, persistent, autostart, redefine, made_persistent, unique_define, unique_create, new_uuid, inactive, lists, volumes, streams, events, stale, flags, documents):
        case(c)
    print("LIFECYCLE-OK")
