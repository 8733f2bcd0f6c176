package libvirt

import (
	"fmt"
	"strings"
	"time"

	"sheepdog/api"
	"sheepdog/libvirtpool"
	"sheepdog/libvirtpool/client"
	"sheepdog/libvirtpool/control"
)

// goAPI makes machines as a manager in Go does, at the libvirtd itself.
func (w *world) goAPI(c, direct virsh, libvirtd string) {
	t, ctx := w.t, w.t.Context()
	t.Helper()
	node := api.NewClient(fmt.Sprintf("127.0.0.1:%d", w.ports[0]))
	defer node.Close()
	st, err := node.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := client.Dial(ctx, libvirtd, "qemu:///system")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pool, err := libvirtpool.Open(ctx, libvirtpool.Config{Store: control.NewStore(node), Definitions: control.NewDefinitions(node), Libvirt: conn, NBDSocket: st.NBD.Unix}, "images")
	if err != nil {
		t.Fatal(err)
	}
	base, err := pool.Create(ctx, "go-base", 10<<30)
	if err != nil {
		t.Fatal(err)
	}
	if err := base.Import(ctx, strings.NewReader(strings.Repeat("golden", 100000))); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		name := fmt.Sprintf("go%d", i)
		vm, err := pool.CreateVM(ctx, "go-base", libvirtpool.VMSpec{Name: name, MemoryMiB: 32, VCPUs: 1, Type: "qemu", DiskBytes: 11 << 30})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("CreateVM: clone %v, define %v, start %v", vm.Timing.Clone.Round(time.Microsecond), vm.Timing.Define.Round(time.Microsecond), vm.Timing.Start.Round(time.Microsecond))
		if out := c.do("domstate", name); out != "running" {
			t.Errorf("%s is %s", name, out)
		}
		if out := c.do("dumpxml", name); !strings.Contains(out, "<source pool='images' volume='"+name+"'") {
			t.Errorf("a client sees\n%s", out)
		}
		if out := c.do("vol-info", "--bytes", "--pool", "images", name); !strings.Contains(out, "11811160064") {
			t.Error(out)
		}
	}
	// A machine of that name exists: nothing is left of the second try.
	if _, err := pool.CreateVM(ctx, "go-base", libvirtpool.VMSpec{Name: "go0", MemoryMiB: 32, VCPUs: 1, Type: "qemu"}); err == nil || !strings.Contains(err.Error(), "clone") {
		t.Errorf("a second machine of a name: %v", err)
	}
	for i := range 3 {
		name := fmt.Sprintf("go%d", i)
		direct.do("destroy", name)
		c.do("undefine", name, "--remove-all-storage")
	}
	if err := base.Delete(ctx); err != nil {
		t.Error(err)
	}
	if list, err := pool.Volumes(ctx); err != nil || len(list) != 2 {
		t.Errorf("left: %d volumes, %v", len(list), err)
	}
}
