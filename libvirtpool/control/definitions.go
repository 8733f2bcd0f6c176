package control

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/libvirtpool/storage"
)

// Definitions keeps pool definitions in the cluster's directory of VDIs, which
// every node has and which changes by agreement only. A pool is a VDI of one block
// that nobody writes to, named so that a second one of the same name is refused;
// what it says is the tag of that VDI's newest snapshot:
//
//	VDI   .libvirt/NAME                                  NAME query-escaped
//	tag   v1:g=GENERATION&id=UUID&n=NAMESPACE&a=1&h=HOST  values query-escaped
//
// A change makes a snapshot of the next generation and deletes the older one, so
// that there is a valid definition at every moment. A VDI without a snapshot is a
// pool whose definition was not completed; it counts as not defined.
type Definitions struct{ c Client }

var _ storage.Definitions = Definitions{}

// NewDefinitions uses the cluster that c speaks to.
func NewDefinitions(c Client) Definitions { return Definitions{c} }

const (
	definitionPrefix = ".libvirt/"
	definitionForm   = "v1:"
)

func definitionVDI(pool string) string { return definitionPrefix + url.QueryEscape(pool) }

// record is a definition as it is stored.
type record struct {
	storage.Definition
	generation uint64
	tag        string
}

// Load reads all definitions with one request.
func (d Definitions) Load(ctx context.Context) ([]storage.Definition, error) {
	records, err := d.records(ctx, "")
	if err != nil {
		return nil, err
	}
	newest := map[string]record{}
	for _, r := range records {
		if old, ok := newest[r.Name]; !ok || old.generation < r.generation {
			newest[r.Name] = r
		}
	}
	var out []storage.Definition
	for _, r := range newest {
		out = append(out, r.Definition)
	}
	return out, nil
}

// records reads the definitions in all snapshots of one VDI, or of all.
func (d Definitions) records(ctx context.Context, vdi string) ([]record, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	all, err := d.c.VDIs(ctx, &api.VDIQuery{Name: vdi, Brief: true})
	if err != nil {
		return nil, err
	}
	working := map[string]bool{}
	for i := range all {
		if !all[i].Snapshot {
			working[all[i].Name] = true
		}
	}
	var out []record
	for i := range all {
		v := &all[i]
		if name, ok := strings.CutPrefix(v.Name, definitionPrefix); ok && v.Snapshot && working[v.Name] {
			if r, err := parseRecord(name, v.Tag); err == nil {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// parseRecord reads what formatRecord wrote. Tags of another form belong to a
// newer version of this program or to a user's experiment.
func parseRecord(escaped, tag string) (record, error) {
	name, err := url.QueryUnescape(escaped)
	text, ok := strings.CutPrefix(tag, definitionForm)
	if err != nil || !ok {
		return record{}, fmt.Errorf("tag %q is no pool definition: %w", tag, sheepdog.ErrInvalid)
	}
	q, err := url.ParseQuery(text)
	if err != nil {
		return record{}, fmt.Errorf("tag %q is no pool definition: %w", tag, sheepdog.ErrInvalid)
	}
	r := record{tag: tag, Definition: storage.Definition{Name: name, Namespace: q.Get("n"), Host: q.Get("h"), Autostart: q.Get("a") == "1"}}
	if r.generation, err = strconv.ParseUint(q.Get("g"), 10, 64); err != nil {
		return record{}, fmt.Errorf("tag %q has no generation: %w", tag, sheepdog.ErrInvalid)
	}
	if r.UUID, err = storage.ParseUUID(q.Get("id")); err != nil || q.Get("id") == "" {
		return record{}, fmt.Errorf("tag %q has no UUID: %w", tag, sheepdog.ErrInvalid)
	}
	return r, nil
}

func formatRecord(def storage.Definition, generation uint64) (string, error) {
	q := url.Values{"g": {strconv.FormatUint(generation, 10)}, "id": {storage.FormatUUID(def.UUID)}, "n": {def.Namespace}}
	if def.Autostart {
		q.Set("a", "1")
	}
	if def.Host != "" {
		q.Set("h", def.Host)
	}
	tag := definitionForm + q.Encode()
	if n := len(tag); n > sheepdog.MaxNameLength {
		return "", fmt.Errorf("source and host name of the pool are too long by %d bytes: %w", n-sheepdog.MaxNameLength, sheepdog.ErrInvalid)
	}
	return tag, nil
}

// Add writes a new definition down.
func (d Definitions) Add(ctx context.Context, def storage.Definition) error {
	vdi := definitionVDI(def.Name)
	if len(vdi) > sheepdog.MaxNameLength {
		return fmt.Errorf("name of the pool is too long: %w", sheepdog.ErrInvalid)
	}
	tag, err := formatRecord(def, 1)
	if err != nil {
		return err
	}
	err = d.create(ctx, vdi)
	switch {
	case errors.Is(err, sheepdog.ErrExists):
		err = d.adopt(ctx, vdi)
	case err == nil:
		err = d.clear(ctx, vdi)
	}
	if err != nil {
		return err
	}
	return d.write(ctx, vdi, tag)
}

func (d Definitions) create(ctx context.Context, vdi string) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	_, err := d.c.CreateVDI(ctx, &api.CreateRequest{Name: vdi, SizeBytes: sheepdog.BlockSize})
	return err
}

func (d Definitions) write(ctx context.Context, vdi, tag string) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	_, err := d.c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: vdi, Tag: tag})
	return err
}

// adopt takes over the VDI of a definition that was never completed. Two who do
// so at once both write generation 1; the second finds the first one's.
func (d Definitions) adopt(ctx context.Context, vdi string) error {
	records, err := d.records(ctx, vdi)
	if err == nil && len(records) > 0 {
		err = fmt.Errorf("pool definition: %w", sheepdog.ErrExists)
	}
	return err
}

// clear drops what an earlier removal of that name left, before it counts again.
func (d Definitions) clear(ctx context.Context, vdi string) error {
	left, err := d.records(ctx, vdi)
	if err != nil {
		return err
	}
	return d.drop(ctx, vdi, left)
}

// Replace writes the next generation of a definition.
func (d Definitions) Replace(ctx context.Context, def storage.Definition) error {
	vdi := definitionVDI(def.Name)
	old, err := d.records(ctx, vdi)
	if err != nil {
		return err
	}
	if len(old) == 0 {
		return fmt.Errorf("definition of pool %q: %w", def.Name, sheepdog.ErrNotFound)
	}
	var generation uint64
	for _, r := range old {
		generation = max(generation, r.generation)
	}
	tag, err := formatRecord(def, generation+1)
	if err != nil {
		return err
	}
	if err := d.write(ctx, vdi, tag); err != nil {
		return err
	}
	return d.drop(ctx, vdi, old)
}

// Remove forgets a definition; without its VDI its snapshots count no more.
func (d Definitions) Remove(ctx context.Context, name string) error {
	vdi := definitionVDI(name)
	old, err := d.records(ctx, vdi)
	if err != nil {
		return err
	}
	if err := erase(ctx, d.c, &api.DeleteRequest{Name: vdi}); err != nil {
		return err
	}
	return d.drop(ctx, vdi, old)
}

func (d Definitions) drop(ctx context.Context, vdi string, old []record) error {
	for _, r := range old {
		err := erase(ctx, d.c, &api.DeleteRequest{Name: vdi, Snapshot: api.Selector(r.tag)})
		if err != nil && !errors.Is(err, sheepdog.ErrNotFound) {
			return fmt.Errorf("delete the old definition %s: %w", r.tag, err)
		}
	}
	return nil
}
