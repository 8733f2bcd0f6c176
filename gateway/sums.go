package gateway

import (
	"hash/crc32"

	"sheepdog"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumsOf are the checksums of a write's blocks, nil of one without data. They are
// computed here for all replicas, this node's and the others'.
func sumsOf(r *sheepdog.WriteRequest) []uint32 {
	if r.Sums != nil || r.Data == nil {
		return r.Sums
	}
	return appendSums(make([]uint32, 0, r.Count), r.Data)
}

// sumAll gives each of the writes its checksums.
func sumAll(reqs []*sheepdog.WriteRequest) {
	n := 0
	for _, r := range reqs {
		n += len(r.Data) / sheepdog.BlockSize
	}
	all := make([]uint32, 0, n)
	for _, r := range reqs {
		if r.Sums == nil && r.Data != nil {
			from := len(all)
			all = appendSums(all, r.Data)
			r.Sums = all[from:len(all):len(all)]
		}
	}
}

func appendSums(sums []uint32, data []byte) []uint32 {
	for ; len(data) >= sheepdog.BlockSize; data = data[sheepdog.BlockSize:] {
		sums = append(sums, crc32.Checksum(data[:sheepdog.BlockSize], castagnoli))
	}
	return sums
}
