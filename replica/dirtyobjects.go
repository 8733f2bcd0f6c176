package replica

// nearObjects is of how many dirty objects a family finds the marks at once.
const nearObjects = 256

// dirtyObjects is what is dirty of a family, by replica. The zero value is empty.
type dirtyObjects struct {
	all map[replicaKey]*dirtyObject
	// near has some of all, each where its index leads: objects that are written at
	// random are found with less code and memory than in a map. nil while there are few.
	near *[nearObjects]nearObject
}

type nearObject struct {
	key replicaKey
	d   *dirtyObject // nil: none
}

// fewObjects is how many are found in the map as fast.
const fewObjects = 8

// find is what is dirty of a replica; nil if nothing is.
func (o *dirtyObjects) find(key replicaKey) *dirtyObject {
	if o.near == nil {
		return o.all[key]
	}
	n := o.at(key)
	if n.d != nil && n.key.object.Index == key.object.Index && n.key.layer == key.layer && n.key.object.Family == key.object.Family {
		return n.d
	}
	d := o.all[key]
	if d != nil {
		*n = nearObject{key, d}
	}
	return d
}

// at is where near has a replica, if it has it.
func (o *dirtyObjects) at(key replicaKey) *nearObject { return &o.near[key.object.Index%nearObjects] }

// put adds a replica, or replaces what is dirty of it.
func (o *dirtyObjects) put(key replicaKey, d *dirtyObject) {
	if o.all == nil {
		o.all = make(map[replicaKey]*dirtyObject)
	}
	o.all[key] = d
	if o.near == nil && len(o.all) > fewObjects {
		o.near = new([nearObjects]nearObject)
	}
	if o.near != nil {
		*o.at(key) = nearObject{key, d}
	}
}

// forget makes a replica clean.
func (o *dirtyObjects) forget(key replicaKey) {
	delete(o.all, key)
	if o.near == nil {
		return
	}
	if n := o.at(key); n.key == key {
		*n = nearObject{}
	}
	if len(o.all) == 0 {
		o.near = nil
	}
}
