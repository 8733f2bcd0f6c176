package libvirtpool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheepdog/libvirtpool/domxml"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// VMSpec is a virtual machine to make.
type VMSpec struct {
	Name      string // of the domain and its volume
	MemoryMiB uint64
	VCPUs     uint
	DiskBytes uint64 // at least; 0: the size of the base
	// Type is kvm (the default) or qemu, which needs no hardware for it.
	Type string
	// Devices is XML of further devices.
	Devices string
}

// VM is a virtual machine that runs, and how long each step took.
type VM struct {
	Name   string
	UUID   rpc.UUID
	Volume *Volume
	Timing Timing
}

// Timing is how long the steps of CreateVM took.
type Timing struct{ Clone, Define, Start time.Duration }

// Total is the sum of all steps.
func (t Timing) Total() time.Duration { return t.Clone + t.Define + t.Start }

// undoTimeout bounds the removal of what a failed CreateVM left.
const undoTimeout = 30 * time.Second

// CreateVM clones a base volume, defines a domain on the clone and starts it.
// When a step fails, nothing is left of the others.
func (p *Pool) CreateVM(ctx context.Context, base string, s VMSpec) (*VM, error) {
	if p.libvirt == nil || p.disks.Socket == "" {
		return nil, errors.New("create a virtual machine: the pool was opened without a connection to libvirt or an NBD socket")
	}
	if s.Name == "" || s.MemoryMiB == 0 || s.VCPUs == 0 {
		return nil, errors.New("create a virtual machine: name, memory and number of CPUs are needed")
	}
	from, err := p.Volume(ctx, base)
	if err != nil {
		return nil, err
	}
	vm := &VM{Name: s.Name}
	if vm.UUID, err = storage.ParseUUID(""); err != nil { // a new one, by which the domain is found if its answer is lost
		return nil, err
	}
	vm.Timing.Clone, err = timed(func() (err error) {
		vm.Volume, err = from.Clone(ctx, s.Name, s.DiskBytes)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("clone %s: %w", base, err)
	}
	made, err := p.launch(ctx, vm, s)
	if err != nil {
		return nil, errors.Join(err, p.undo(ctx, vm, made))
	}
	return vm, nil
}

// launch defines and starts the domain. made: there is, or may be, something to undefine.
func (p *Pool) launch(ctx context.Context, vm *VM, s VMSpec) (made bool, err error) {
	var dom []byte
	vm.Timing.Define, err = timed(func() error {
		var e rpc.Encoder
		e.String(p.disks.ToNBD(s.xml(vm)))
		dom, err = p.libvirt.Call(ctx, rpc.DomainDefineXML, e.Bytes())
		return err
	})
	if err != nil {
		var refused *rpc.Error
		return !errors.As(err, &refused), fmt.Errorf("define domain %s: %w", s.Name, err)
	}
	d := rpc.NewDecoder(dom)
	_ = d.String()
	vm.UUID = d.UUID()
	vm.Timing.Start, err = timed(func() error {
		_, err := p.libvirt.Call(ctx, rpc.DomainCreate, dom)
		return err
	})
	if err != nil {
		return true, fmt.Errorf("start domain %s: %w", s.Name, err)
	}
	return true, nil
}

// undo removes what was made, also when ctx has ended. A domain whose start had no answer
// may run.
func (p *Pool) undo(ctx context.Context, vm *VM, made bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var dom rpc.Encoder
	dom.String(vm.Name)
	dom.UUID(vm.UUID)
	dom.Int32(-1)
	for _, step := range []struct {
		verb string
		call rpc.Procedure
	}{{"stop", rpc.DomainDestroy}, {"undefine", rpc.DomainUndefine}} {
		if !made {
			break
		}
		_, err := p.libvirt.Call(ctx, step.call, dom.Bytes())
		if err != nil && !absent(err) {
			return fmt.Errorf("%s domain %s, which is left with its volume: %w", step.verb, vm.Name, err)
		}
	}
	if err := vm.Volume.Delete(ctx); err != nil {
		return fmt.Errorf("delete volume %s: %w", vm.Volume.Name, err)
	}
	return nil
}

// absent reports whether libvirt has no such domain, or it does not run.
func absent(err error) bool {
	var e *rpc.Error
	return errors.As(err, &e) && (e.Code == rpc.CodeNoDomain || e.Code == rpc.CodeInvalid)
}

func timed(f func() error) (time.Duration, error) {
	began := time.Now()
	err := f()
	return time.Since(began), err
}

// xml is the domain. The guest agent's channel is always there, so that snapshots
// can be consistent.
func (s *VMSpec) xml(vm *VM) string {
	kind := s.Type
	if kind == "" {
		kind = "kvm"
	}
	return fmt.Sprintf(`<domain type='%s'>
  <name>%s</name>
  <uuid>%s</uuid>
  <memory unit='MiB'>%d</memory>
  <vcpu>%d</vcpu>
  <os><type arch='x86_64'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <devices>
    %s
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    %s
  </devices>
</domain>
`, domxml.Escape(kind), domxml.Escape(s.Name), storage.FormatUUID(vm.UUID), s.MemoryMiB, s.VCPUs, vm.Volume.diskXML("vda"), s.Devices)
}

var _ domxml.Pools = (*storage.Driver)(nil)
