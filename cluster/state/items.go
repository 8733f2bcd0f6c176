package state

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"sheepdog"
)

// Items are partitions of a command, most often ascending and of few revisions.
// In JSON they are a string, for there may be all of them: base64 of a pair of
// signed varints each, the differences of partition and revision to those of the
// item before. A list of objects, the form of earlier logs, is read as well.
type Items []PartitionSince

// MarshalJSON writes the short form.
func (it Items) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 4*len(it))
	var last PartitionSince
	for _, i := range it {
		b = binary.AppendVarint(b, int64(i.Partition)-int64(last.Partition))
		b = binary.AppendVarint(b, int64(i.Since-last.Since))
		last = i
	}
	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(b))+2)
	out = base64.StdEncoding.AppendEncode(append(out, '"'), b)
	return append(out, '"'), nil
}

// UnmarshalJSON reads both forms.
func (it *Items) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		return d.Decode((*[]PartitionSince)(it))
	}
	raw, err := base64.StdEncoding.AppendDecode(nil, b[1:len(b)-1])
	if err != nil {
		return fmt.Errorf("partitions of a command: %w", err)
	}
	*it, err = decodeItems(raw)
	return err
}

func decodeItems(b []byte) (Items, error) {
	out := make(Items, 0, min(len(b)/2, sheepdog.Partitions))
	var partition, since int64
	for len(b) > 0 {
		p, n := binary.Varint(b)
		s, m := binary.Varint(b[max(n, 0):])
		if n <= 0 || m <= 0 || len(out) == sheepdog.Partitions {
			return nil, fmt.Errorf("%w: partition number %d of a command is malformed", sheepdog.ErrInvalid, len(out))
		}
		partition, since, b = partition+p, since+s, b[n+m:]
		if partition < 0 || partition >= sheepdog.Partitions {
			return nil, fmt.Errorf("%w: a command names partition %d, there are %d", sheepdog.ErrInvalid, partition, sheepdog.Partitions)
		}
		out = append(out, PartitionSince{sheepdog.Partition(partition), sheepdog.Revision(since)})
	}
	return out, nil
}
