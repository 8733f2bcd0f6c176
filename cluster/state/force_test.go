package state

import (
	"slices"
	"testing"

	"sheepdog"
)

// FuzzPartitionList: what decodes is ascending and within bounds, and comes back.
func FuzzPartitionList(f *testing.F) {
	for _, l := range []PartitionList{nil, {0}, {65535}, {0, 1, 2, 40000, 65535}} {
		text, err := l.MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("//////////8="))
	f.Fuzz(func(t *testing.T, text []byte) {
		var l, again PartitionList
		if l.UnmarshalText(text) != nil {
			return
		}
		if !slices.IsSorted(l) || len(slices.Compact(slices.Clone(l))) != len(l) {
			t.Fatalf("list %v is not ascending", l)
		}
		back, err := l.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalText(back); err != nil || !slices.Equal(l, again) {
			t.Fatalf("%v became %v, %v", l, again, err)
		}
	})
}

func TestPartitionListRefusesDisorder(t *testing.T) {
	for _, l := range []PartitionList{{2, 1}, {5, 5}} {
		if _, err := l.MarshalText(); err == nil {
			t.Errorf("%v was encoded", l)
		}
	}
	all := make(PartitionList, sheepdog.Partitions)
	for p := range all {
		all[p] = sheepdog.Partition(p)
	}
	if text, err := all.MarshalText(); err != nil || len(text) > 90000 {
		t.Errorf("all partitions take %d bytes, %v", len(text), err)
	}
}
