package recovery

import "sheepdog"

// version is what one replica holds of a block.
type version struct {
	sheepdog.Record
	bad bool // its bytes fail their checksum
}

// judgement says how to make the replicas of one block equal.
type judgement struct {
	// stamp is the highest that any replica holds.
	stamp sheepdog.Stamp
	// source is the replica whose bytes are taken; -1 if none has good ones.
	source int
	// wrong lists the replicas that need them.
	wrong []int
	// older says that the highest stamp is lost: the bytes are those of an older
	// one and are written under the highest, so that all agree.
	older bool
}

// judge compares the replicas of one block (docs/protocol.md rules 7 and 12):
// the highest stamp wins; where its bytes are bad on every replica that has
// them, the highest stamp with good bytes stands in for it. It is pure.
func judge(versions []version) judgement {
	j := judgement{source: -1}
	for _, v := range versions {
		if j.stamp.Less(v.Stamp) {
			j.stamp = v.Stamp
		}
	}
	for i, v := range versions {
		if v.bad || v.State == sheepdog.Absent {
			continue
		}
		if j.source < 0 || versions[j.source].Stamp.Less(v.Stamp) {
			j.source = i
		}
	}
	if j.source >= 0 {
		j.older = versions[j.source].Stamp != j.stamp
	}
	for i, v := range versions {
		switch {
		case v.bad:
			j.wrong = append(j.wrong, i)
		case j.source >= 0 && (j.older || v.Record != versions[j.source].Record):
			j.wrong = append(j.wrong, i)
		}
	}
	return j
}

// versions gathers what each replica said of block number i of a range.
func versionsOf(replies []*sheepdog.FetchReply, start sheepdog.BlockNo, i int) []version {
	out := make([]version, len(replies))
	for k, r := range replies {
		out[k].Record = r.Records[i]
		for _, b := range r.Bad {
			if b == start+sheepdog.BlockNo(i) {
				out[k].bad = true
			}
		}
	}
	return out
}
