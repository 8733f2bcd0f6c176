package gateway

import "sheepdog"

// sumsOf are the checksums of a write's blocks, nil of one without data. They are
// computed here for all replicas, this node's and the others'.
func sumsOf(r *sheepdog.WriteRequest) []uint32 {
	if r.Sums != nil || r.Data == nil {
		return r.Sums
	}
	return sheepdog.AppendSums(make([]uint32, 0, r.Count), r.Data)
}

// sumAll gives those of the writes their checksums that have none.
func sumAll(reqs []*sheepdog.WriteRequest) {
	n := 0
	for _, r := range reqs {
		if r.Sums == nil {
			n += len(r.Data) / sheepdog.BlockSize
		}
	}
	if n == 0 {
		return
	}
	all := make([]uint32, 0, n)
	for _, r := range reqs {
		if r.Sums == nil && r.Data != nil {
			from := len(all)
			all = sheepdog.AppendSums(all, r.Data)
			r.Sums = all[from:len(all):len(all)]
		}
	}
}
