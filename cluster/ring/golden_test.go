package ring

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"sheepdog"
)

// TestGolden pins the placement. A difference here means that upgraded nodes
// would look for data where they are not: mend the code, never the vectors.
func TestGolden(t *testing.T) {
	datadriven.RunTest(t, "testdata/golden", func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd != "place" {
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		var width int
		d.ScanArgs(t, "width", &width)
		rows := Place(parseMembers(t, d), width)
		var out strings.Builder
		for _, p := range []int{0, 1, 2, 3, 255, 4096, 32767, 65534, 65535} {
			fmt.Fprintf(&out, "%5d:", p)
			for _, id := range rows[p] {
				fmt.Fprintf(&out, " %s", id)
			}
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "all: %016x\n", digest(rows))
		return out.String()
	})
}

// parseMembers reads lines of node id, zone and weight.
func parseMembers(t *testing.T, d *datadriven.TestData) []sheepdog.Member {
	var out []sheepdog.Member
	for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
		var id, zone uint64
		var m sheepdog.Member
		if _, err := fmt.Sscanf(line, "%x zone=%d vnodes=%d", &id, &zone, &m.VNodes); err != nil {
			d.Fatalf(t, "line %q: %v", line, err)
		}
		m.ID, m.Zone = sheepdog.NodeID(id), sheepdog.Zone(zone)
		out = append(out, m)
	}
	return out
}

// digest is FNV-1a over the lists' lengths and ids.
func digest(rows [][]sheepdog.NodeID) uint64 {
	h := fnv.New64a()
	var buf [8]byte
	for _, row := range rows {
		h.Write([]byte{byte(len(row))})
		for _, id := range row {
			binary.LittleEndian.PutUint64(buf[:], uint64(id))
			h.Write(buf[:])
		}
	}
	return h.Sum64()
}
