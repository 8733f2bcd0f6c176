package objectstore

import "sheepdog"

// LayerBytes is how many bytes of data each layer has on this node's disks.
// Zeros that were written and discarded blocks take none. It reads a header per
// object, without their maps; objects that change meanwhile count as they were at
// some moment of the call.
func (d *Disk) LayerBytes() (map[sheepdog.LayerID]uint64, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	defer d.end()
	out := make(map[sheepdog.LayerID]uint64)
	// As in List: what is clean by the end of this was committed before the scan.
	fresh := make(map[objectKey]bool)
	for _, p := range d.dirty.all() {
		p.mu.RLock()
		for _, o := range p.objects {
			fresh[o.key] = true
			out[o.key.Layer] += uint64(o.data) * blockSize
		}
		p.mu.RUnlock()
	}
	err := d.meta.Scan(scan{prefix: []byte{keyObject}}, func(key, value []byte) (bool, error) {
		k, err := decodeObjectKey(key)
		if err != nil || fresh[k] {
			return err == nil, err
		}
		h, _, err := readHeader(k, value)
		if err != nil {
			return false, err
		}
		out[k.Layer] += uint64(h.data) * blockSize
		return true, nil
	})
	if err != nil {
		return nil, metaError("count bytes", err)
	}
	return out, nil
}

// LayerBytes is that of Disk.
func (m *Memory) LayerBytes() (map[sheepdog.LayerID]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(); err != nil {
		return nil, err
	}
	out := make(map[sheepdog.LayerID]uint64)
	for k, blocks := range m.objects {
		for _, b := range blocks {
			if b.rec.State == sheepdog.Data {
				out[k.Layer] += blockSize
			}
		}
	}
	return out, nil
}
