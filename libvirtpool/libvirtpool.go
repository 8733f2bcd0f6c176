// Package libvirtpool makes a cluster a storage pool of libvirt. For programs
// that speak libvirt there is the command sheep-libvirt, built of the packages
// below this one; for Go programs there are Pool and Volume here, which reach the
// cluster directly, and Pool.CreateVM, which makes a running virtual machine out
// of a base volume.
//
//	rpc      libvirt's protocol        storage  pools and volumes, and their rules
//	server   the daemon                domxml   disks in domain XML
//	control  the cluster, by its API   qcow2    images that are uploaded
//	client   calls to a libvirtd
//
// Main types: Pool, Volume, VM.
package libvirtpool

import (
	"context"
	"fmt"
	"io"
	"strings"

	"sheepdog/libvirtpool/client"
	"sheepdog/libvirtpool/domxml"
	"sheepdog/libvirtpool/storage"
)

// Config is what a Pool needs.
type Config struct {
	Store       storage.Store       // control.NewStore(api.NewClient(...))
	Definitions storage.Definitions // control.NewDefinitions(...)
	// Libvirt is where virtual machines are made; only CreateVM needs it.
	Libvirt *client.Conn
	// NBDSocket is where the local sheep serves disks; only CreateVM needs it.
	NBDSocket string
}

// Pool is a pool that is active in this process.
type Pool struct {
	name    string
	driver  *storage.Driver
	libvirt *client.Conn
	disks   domxml.Rewriter
}

// Open uses the pool that is defined under a name in the cluster. The error is an
// *rpc.Error of code CodeNoPool if there is none.
func Open(ctx context.Context, c Config, name string) (*Pool, error) {
	driver, err := storage.New(storage.Config{Store: c.Store, Definitions: c.Definitions})
	if err != nil {
		return nil, err
	}
	p, err := driver.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if !p.Active {
		if err := driver.Start(ctx, name); err != nil {
			return nil, err
		}
	}
	return &Pool{name: name, driver: driver, libvirt: c.Libvirt, disks: domxml.Rewriter{Socket: c.NBDSocket, Pools: driver}}, nil
}

// Volume is a volume of a Pool.
type Volume struct {
	pool *Pool
	Name string
	VDI  string // its full name in the cluster
	Size uint64 // bytes, as of when it was looked up
}

func (p *Pool) wrap(v storage.Volume) *Volume {
	return &Volume{pool: p, Name: v.Name, VDI: v.VDI.Name, Size: v.VDI.Size}
}

// Volumes lists the volumes by name, with one request.
func (p *Pool) Volumes(ctx context.Context) ([]*Volume, error) {
	list, err := p.driver.Volumes(ctx, p.name)
	if err != nil {
		return nil, err
	}
	out := make([]*Volume, len(list))
	for i, v := range list {
		out[i] = p.wrap(v)
	}
	return out, nil
}

// Volume finds a volume; an *rpc.Error of code CodeNoVolume if there is none.
func (p *Pool) Volume(ctx context.Context, name string) (*Volume, error) {
	v, err := p.driver.Volume(ctx, p.name, name)
	if err != nil {
		return nil, err
	}
	return p.wrap(v), nil
}

// Create makes an empty volume of size bytes.
func (p *Pool) Create(ctx context.Context, name string, size uint64) (*Volume, error) {
	v, err := p.driver.CreateVolume(ctx, p.name, volumeText(name, size))
	if err != nil {
		return nil, err
	}
	return p.wrap(v), nil
}

func volumeText(name string, size uint64) string {
	return fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity></volume>", domxml.Escape(name), size)
}

// Clone makes a volume of at least size bytes that holds what v holds now, in the
// same time whatever the size.
func (v *Volume) Clone(ctx context.Context, name string, size uint64) (*Volume, error) {
	c, err := v.pool.driver.CloneVolume(ctx, v.pool.name, volumeText(name, size), v.pool.name, v.Name)
	if err != nil {
		return nil, err
	}
	return v.pool.wrap(c), nil
}

// Delete deletes the volume and its snapshots. Its clones live on.
func (v *Volume) Delete(ctx context.Context) error {
	return v.pool.driver.DeleteVolume(ctx, v.pool.name, v.Name, storage.DropSnapshots)
}

// Resize makes the volume larger.
func (v *Volume) Resize(ctx context.Context, size uint64) error {
	err := v.pool.driver.ResizeVolume(ctx, v.pool.name, v.Name, size, storage.ResizeMode{})
	if err == nil {
		v.Size = size
	}
	return err
}

// Import writes an image, raw or qcow2, to the beginning of the volume.
func (v *Volume) Import(ctx context.Context, image io.Reader) error {
	u, err := v.pool.driver.Upload(ctx, v.pool.name, v.Name, 0, 0)
	if err != nil {
		return err
	}
	if _, err := io.Copy(writer{ctx, u}, image); err != nil {
		u.Abort()
		return fmt.Errorf("import into volume %s: %w", v.Name, err)
	}
	return u.Finish(ctx)
}

// writer is an upload as an io.Writer for the time of one call.
type writer struct {
	ctx context.Context
	u   *storage.Upload
}

func (w writer) Write(p []byte) (int, error) { return len(p), w.u.Write(w.ctx, p) }

// diskXML is the volume as a disk of a domain.
func (v *Volume) diskXML(target string) string {
	return strings.TrimSpace(fmt.Sprintf(`
    <disk type='volume' device='disk'>
      <source pool='%s' volume='%s'/>
      <target dev='%s' bus='virtio'/>
    </disk>`, domxml.Escape(v.pool.name), domxml.Escape(v.Name), target))
}
