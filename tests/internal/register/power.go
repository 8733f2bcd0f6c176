package register

import (
	"fmt"
	"time"
)

// Flush is one that was completed.
type Flush struct{ Call, Return time.Duration }

// AfterPowerCut judges what each register holds after a power cut, as on a disk
// with a volatile cache: a value that somebody wrote, and not one that another had
// replaced before a flush that was completed began. found must have each register
// of ops.
func AfterPowerCut(ops []Op, flushes []Flush, found map[int]Value) (bad []error) {
	flushed := time.Duration(-1) // what was acknowledged by then is durable
	for _, f := range flushes {
		flushed = max(flushed, f.Call)
	}
	written := map[int]map[Value]Op{}
	for _, o := range ops {
		if o.Write {
			if written[o.Register] == nil {
				written[o.Register] = map[Value]Op{}
			}
			written[o.Register][o.Value] = o
		}
	}
	for register, writes := range written {
		v := found[register]
		w, ok := writes[v]
		if !ok && v != 0 {
			bad = append(bad, fmt.Errorf("register %d holds %d, which nobody wrote", register, v))
			continue
		}
		if v == 0 {
			w.Return = -1 // before all others
		}
		for _, later := range writes {
			if later.Return <= flushed && w.Return < later.Call {
				bad = append(bad, fmt.Errorf("register %d holds %d {%v}, but this was flushed: %v", register, v, w, later))
				break
			}
		}
	}
	return bad
}
