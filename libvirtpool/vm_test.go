package libvirtpool

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sheepdog/libvirtpool/client"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
	"sheepdog/libvirtpool/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hypervisor answers define, start and undefine, or fails one of them.
type hypervisor struct {
	mu    sync.Mutex
	calls []rpc.Procedure
	xml   string
	fails rpc.Procedure
	lost  func(rpc.Procedure) // sees every call, before its answer
}

func (h *hypervisor) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		m, err := rpc.ReadMessage(r)
		if err != nil {
			return
		}
		reply := h.answer(m)
		if h.lost != nil {
			h.lost(m.Procedure)
		}
		// An event that nobody asked for comes in between.
		_, _ = rpc.NewMessage(rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: rpc.PoolEventRefresh, Type: rpc.Event}, nil).WriteTo(conn)
		if _, err := reply.WriteTo(conn); err != nil {
			return
		}
	}
}

func (h *hypervisor) answer(m *rpc.Message) *rpc.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, m.Procedure)
	if m.Procedure == h.fails {
		return rpc.NewMessage(m.Header.Reply(rpc.Failed), rpc.Errorf(rpc.CodeFailed, "boom").Encode())
	}
	var out rpc.Encoder
	if m.Procedure == rpc.DomainDefineXML {
		h.xml = rpc.NewDecoder(m.Payload()).String()
		out.String("vm")
		out.UUID(rpc.UUID{7})
		out.Int32(-1)
	}
	return rpc.NewMessage(m.Header.Reply(rpc.OK), out.Bytes())
}

// open makes a pool with a base volume, and a hypervisor.
func open(t *testing.T) (*Pool, *hypervisor) {
	t.Helper()
	h := &hypervisor{}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h.serve(conn) })
		}
	})
	conn, err := client.Dial(t.Context(), path, "qemu:///system")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); l.Close(); wg.Wait() })
	c := storagetest.New()
	if err := c.Add(t.Context(), storage.Definition{Name: "images", Namespace: "img", UUID: rpc.UUID{1}}); err != nil {
		t.Fatal(err)
	}
	p, err := Open(t.Context(), Config{Store: c, Definitions: c, Libvirt: conn, NBDSocket: "/nbd.sock"}, "images")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), "base", 8192); err != nil {
		t.Fatal(err)
	}
	return p, h
}

func volumes(t *testing.T, p *Pool) (names []string) {
	t.Helper()
	list, err := p.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names
}

func TestCreateVM(t *testing.T) {
	p, h := open(t)
	vm, err := p.CreateVM(t.Context(), "base", VMSpec{Name: "vm", MemoryMiB: 64, VCPUs: 2, DiskBytes: 1 << 20, Type: "qemu"})
	if err != nil {
		t.Fatal(err)
	}
	if vm.UUID != (rpc.UUID{7}) || vm.Volume.Size != 1<<20 || vm.Volume.VDI != "img/vm" {
		t.Errorf("%+v %+v", vm, vm.Volume)
	}
	if vm.Timing.Clone <= 0 || vm.Timing.Define <= 0 || vm.Timing.Start <= 0 || vm.Timing.Total() > time.Minute {
		t.Errorf("timing %+v", vm.Timing)
	}
	for _, want := range []string{"<domain type='qemu'>", "protocol='nbd' name='img/vm'", "socket='/nbd.sock'", "org.qemu.guest_agent.0"} {
		if !strings.Contains(h.xml, want) {
			t.Errorf("no %s in\n%s", want, h.xml)
		}
	}
}

// Whatever step fails, nothing is left of the others.
func TestCreateVMThatFailsLeavesNothing(t *testing.T) {
	for _, step := range []rpc.Procedure{rpc.DomainDefineXML, rpc.DomainCreate} {
		p, h := open(t)
		h.mu.Lock()
		h.fails = step
		h.mu.Unlock()
		_, err := p.CreateVM(t.Context(), "base", VMSpec{Name: "vm", MemoryMiB: 64, VCPUs: 1})
		if err == nil || !strings.Contains(err.Error(), "boom") {
			t.Errorf("step %d: %v", step, err)
		}
		if got := volumes(t, p); !slices.Equal(got, []string{"base"}) {
			t.Errorf("step %d leaves %v", step, got)
		}
		if undefined := slices.Contains(h.calls, rpc.DomainUndefine); undefined != (step == rpc.DomainCreate) {
			t.Errorf("step %d: undefined %t", step, undefined)
		}
	}
}

// A machine whose maker gives up while it is defined, or started, was left, perhaps running,
// with its volume; and no further one could be made with that pool.
func TestCreateVMThatIsGivenUpLeavesNothing(t *testing.T) {
	for _, step := range []rpc.Procedure{rpc.DomainDefineXML, rpc.DomainCreate} {
		p, h := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		h.lost = func(at rpc.Procedure) {
			if at == step && ctx.Err() == nil {
				cancel()
				<-t.Context().Done() // there is no answer
			}
		}
		_, err := p.CreateVM(ctx, "base", VMSpec{Name: "vm", MemoryMiB: 64, VCPUs: 1})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("step %d: %v", step, err)
		}
		if got := volumes(t, p); !slices.Equal(got, []string{"base"}) {
			t.Errorf("step %d leaves %v", step, got)
		}
		h.mu.Lock()
		calls := slices.Clone(h.calls)
		h.mu.Unlock()
		if !slices.Contains(calls, rpc.DomainDestroy) || !slices.Contains(calls, rpc.DomainUndefine) {
			t.Errorf("step %d: libvirtd got %v", step, calls)
		}
		if _, err := p.CreateVM(t.Context(), "base", VMSpec{Name: "vm2", MemoryMiB: 64, VCPUs: 1}); err != nil {
			t.Errorf("step %d: the next one: %v", step, err)
		}
	}
}

func TestCreateVMRefuses(t *testing.T) {
	p, _ := open(t)
	if _, err := p.CreateVM(t.Context(), "base", VMSpec{Name: "vm"}); err == nil {
		t.Error("a machine without memory")
	}
	if _, err := p.CreateVM(t.Context(), "nope", VMSpec{Name: "vm", MemoryMiB: 1, VCPUs: 1}); rpc.AsError(err).Code != rpc.CodeNoVolume {
		t.Errorf("no base: %v", err)
	}
	p.libvirt = nil
	if _, err := p.CreateVM(t.Context(), "base", VMSpec{Name: "vm", MemoryMiB: 1, VCPUs: 1}); err == nil {
		t.Error("without a hypervisor")
	}
}

func TestVolumes(t *testing.T) {
	p, _ := open(t)
	ctx := t.Context()
	v, err := p.Volume(ctx, "base")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Import(ctx, strings.NewReader("an image")); err != nil {
		t.Fatal(err)
	}
	c, err := v.Clone(ctx, "copy", 0)
	if err != nil || c.Size != 8192 {
		t.Fatalf("%+v %v", c, err)
	}
	if err := c.Resize(ctx, 9000); err != nil || c.Size != 9000 {
		t.Errorf("%d %v", c.Size, err)
	}
	if err := v.Delete(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Import(ctx, strings.NewReader(strings.Repeat("x", 9001))); err == nil {
		t.Error("an image larger than its volume")
	}
	if got := volumes(t, p); !slices.Equal(got, []string{"copy"}) {
		t.Errorf("%v", got)
	}
	if _, err := Open(ctx, Config{Store: storagetest.New(), Definitions: storagetest.New()}, "none"); rpc.AsError(err).Code != rpc.CodeNoPool {
		t.Errorf("no pool: %v", err)
	}
}
