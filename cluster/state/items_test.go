package state

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"sheepdog"
)

func TestItemsAreShortAndOldOnesAreRead(t *testing.T) {
	var all Items
	for p := range sheepdog.Partitions {
		all = append(all, PartitionSince{sheepdog.Partition(p), sheepdog.Revision(1000 + p%3)})
	}
	for _, want := range []Items{{}, {{65535, 1}, {0, 1 << 63}, {7, 0}}, all} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 3*len(want)+64 {
			t.Errorf("%d partitions take %d bytes", len(want), len(b))
		}
		var got Items
		if err := json.Unmarshal(b, &got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d partitions became %d, %v", len(want), len(got), err)
		}
	}
	var got Items
	if err := json.Unmarshal([]byte(`[{"p":3,"s":9},{"p":1,"s":2}]`), &got); err != nil || !slices.Equal(got, Items{{3, 9}, {1, 2}}) {
		t.Errorf("the form of earlier logs became %v, %v", got, err)
	}
}

func TestItemsRefuseNonsense(t *testing.T) {
	for _, b := range []string{`"?"`, `"gA=="`, `"AA=="`, `"AQA="`, `"gIAIAA=="`, `[{"p":1,"x":2}]`, `{}`, `7`} {
		var got Items
		if err := json.Unmarshal([]byte(b), &got); err == nil {
			t.Errorf("%s became %v", b, got)
		}
	}
	many := make(Items, sheepdog.Partitions+1)
	b, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, new(Items)); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("more partitions than there are: %v", err)
	}
}
