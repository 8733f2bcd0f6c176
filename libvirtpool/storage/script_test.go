package storage_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
	"sheepdog/libvirtpool/storage/storagetest"
)

// host is a driver under a script.
type host struct {
	d      *storage.Driver
	events []string
}

func newHost(t *testing.T, c *storagetest.Cluster, state string) *host {
	t.Helper()
	now := time.Unix(0, 0)
	d, err := storage.New(storage.Config{Store: c, Definitions: c, StateFile: state, Now: func() time.Time {
		now = now.Add(time.Minute) // definitions are never recent
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{d: d}
	t.Cleanup(d.Subscribe(func(e storage.Event) {
		h.events = append(h.events, fmt.Sprintf("event %s %s", e.Pool, kind(e.Kind)))
	}))
	return h
}

func kind(k storage.EventKind) string {
	if k == storage.PoolRefreshed {
		return "refreshed"
	}
	return [...]string{"defined", "undefined", "started", "stopped", "created", "deleted"}[k]
}

// arg is an argument of a command; def if it has none.
func arg(d *datadriven.TestData, key, def string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) > 0 {
			return a.Vals[0]
		}
	}
	return def
}

// uuid is a short UUID spelled out.
func uuid(s string) string {
	return fmt.Sprintf("00000000-0000-4000-8000-%012s", s)
}

func poolText(d *datadriven.TestData) string {
	text := "<pool type='" + arg(d, "type", "sheepdog") + "'><name>" + arg(d, "name", "") + "</name>"
	if u := arg(d, "uuid", ""); u != "" {
		text += "<uuid>" + uuid(u) + "</uuid>"
	}
	if s := arg(d, "source", "-"); s != "-" {
		text += "<source><name>" + s + "</name></source>"
	}
	return text + "</pool>"
}

func volumeText(d *datadriven.TestData) string {
	text := "<volume><name>" + arg(d, "volume", "") + "</name>"
	if c := arg(d, "capacity", ""); c != "" {
		text += "<capacity unit='" + arg(d, "unit", "bytes") + "'>" + c + "</capacity>"
	}
	if b := arg(d, "backing", ""); b != "" {
		text += "<backingStore><path>" + b + "</path></backingStore>"
	}
	return text + "</volume>"
}

// TestScripts runs the scripts in testdata; each is one story of two hosts, a and
// b, at one cluster.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		c := storagetest.New()
		hosts := map[string]*host{"a": newHost(t, c, ""), "b": newHost(t, c, "")}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "fail" {
				c.Fail(map[string]error{"none": nil, "quorum": sheepdog.ErrNoQuorum, "space": sheepdog.ErrNoSpace}[arg(d, "with", "none")])
				return ""
			}
			h := hosts[arg(d, "host", "a")]
			h.events = nil
			out, err := h.command(t.Context(), d)
			if err != nil {
				e := rpc.AsError(err)
				out = fmt.Sprintf("error %d: %s\n", e.Code, strings.ReplaceAll(e.Error(), uuid(""), ""))
			} else if out == "" && len(h.events) == 0 {
				out = "ok\n"
			}
			for _, e := range h.events {
				out += e + "\n"
			}
			return strings.ReplaceAll(out, "00000000-0000-4000-8000-", "..")
		})
	})
}

func (h *host) command(ctx context.Context, d *datadriven.TestData) (string, error) {
	name := arg(d, "name", arg(d, "pool", ""))
	volume := arg(d, "volume", "")
	size, _ := strconv.ParseUint(arg(d, "capacity", "0"), 10, 64)
	switch d.Cmd {
	case "define":
		_, err := h.d.Define(ctx, poolText(d))
		return "", err
	case "create":
		_, err := h.d.CreateXML(ctx, poolText(d))
		return "", err
	case "start":
		return "", h.d.Start(ctx, name)
	case "build":
		return "", h.d.Build(ctx, name)
	case "destroy":
		return "", h.d.Destroy(ctx, name)
	case "undefine":
		return "", h.d.Undefine(ctx, name)
	case "delete":
		return "", h.d.DeletePool(ctx, name)
	case "refresh":
		return "", h.d.Refresh(ctx, name)
	case "autostart":
		return "", h.d.SetAutostart(ctx, name, storage.Autostart(arg(d, "on", "yes") == "yes"))
	case "list":
		return h.list(ctx, d), nil
	case "info":
		i, err := h.d.Info(ctx, name)
		return fmt.Sprintf("state %d total %d used %d free %d\n", i.State, i.Total, i.Used, i.Free), err
	case "xml":
		view := storage.Current
		if arg(d, "view", "") == "inactive" {
			view = storage.Inactive
		}
		return h.d.XML(ctx, name, view)
	case "uuid":
		u, _ := storage.ParseUUID(uuid(arg(d, "is", "")))
		p, err := h.d.LookupUUID(ctx, u)
		return p.Name + "\n", err
	case "volumes":
		list, err := h.d.Volumes(ctx, name)
		return show(list...), err
	case "volume":
		v, err := h.d.Volume(ctx, name, volume)
		return show(v), err
	case "path":
		v, err := h.d.VolumeByKey(ctx, "path", arg(d, "is", ""))
		return show(v), err
	case "volume-xml":
		return h.d.VolumeXML(ctx, name, volume)
	case "volume-create":
		v, err := h.d.CreateVolume(ctx, name, volumeText(d))
		return show(v), err
	case "volume-clone":
		v, err := h.d.CloneVolume(ctx, name, volumeText(d), arg(d, "from", name), arg(d, "of", ""))
		return show(v), err
	case "volume-delete":
		return "", h.d.DeleteVolume(ctx, name, volume, storage.KeepSnapshots)
	case "volume-resize":
		mode := arg(d, "mode", "")
		return "", h.d.ResizeVolume(ctx, name, volume, size, storage.ResizeMode{Delta: strings.Contains(mode, "delta"), Shrink: strings.Contains(mode, "shrink")})
	case "volume-wipe":
		n, _ := strconv.Atoi(arg(d, "algorithm", "0"))
		return "", h.d.WipeVolume(ctx, name, volume, storage.WipeAlgorithm(n))
	}
	return "", fmt.Errorf("no command %s", d.Cmd)
}

func (h *host) list(ctx context.Context, d *datadriven.TestData) string {
	flags := arg(d, "flags", "")
	has := func(s string) bool { return strings.Contains(","+flags+",", ","+s+",") }
	var b strings.Builder
	for _, p := range h.d.Pools(ctx, storage.Filter{Inactive: has("inactive"), Active: has("active"), Persistent: has("persistent"),
		Transient: has("transient"), Autostart: has("autostart"), Manual: has("manual")}) {
		fmt.Fprintf(&b, "%s active=%t persistent=%t autostart=%t\n", p.Name, p.Active, p.Persistent, p.Autostart)
	}
	if b.Len() == 0 {
		return "none\n"
	}
	return b.String()
}

func show(list ...storage.Volume) string {
	var b strings.Builder
	for _, v := range list {
		fmt.Fprintf(&b, "%s/%s key=%s size=%d\n", v.Pool, v.Name, v.Key(), v.VDI.Size)
	}
	if b.Len() == 0 {
		return "none\n"
	}
	return b.String()
}
