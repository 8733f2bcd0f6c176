package main

import (
	"errors"
	"testing"

	"sheepdog/api"
)

// It listed one node of each version, as Go prints a map.
func TestDoctorNamesTheNodesOfEachVersion(t *testing.T) {
	for _, c := range []struct {
		found map[string][]string
		ok    bool
		want  string
	}{
		{map[string][]string{"1.0": {"a:7000", "b:7000"}}, true, "versions of sheep that run: 1.0 (a:7000, b:7000)"},
		{map[string][]string{"1.1": {"c:7000"}, "1.0": {"a:7000", "b:7000"}}, false, "versions of sheep that run: 1.0 (a:7000, b:7000); 1.1 (c:7000)"},
	} {
		g := &diagnosis{}
		g.versions(c.found)
		if s := g.Checks[0]; s.OK != c.ok || s.Text != c.want {
			t.Errorf("%v: %+v", c.found, s)
		}
	}
}

// Where the space of the nodes could not be asked for, nothing was said of disks, and all
// was well.
func TestDoctorSaysThatSpaceIsNotKnown(t *testing.T) {
	g := &diagnosis{}
	g.disks(nil, errors.New("no answer"))
	if len(g.Checks) != 1 || g.Checks[0].OK || g.Checks[0].Hint == "" {
		t.Errorf("%+v", g.Checks)
	}
	g = &diagnosis{}
	g.disks(&api.Capacities{Nodes: []api.NodeCapacity{{Node: api.Node{VNodes: 1}, UsedBytes: 1, FreeBytes: 9}}}, nil)
	if len(g.Checks) != 1 || !g.Checks[0].OK {
		t.Errorf("%+v", g.Checks)
	}
}
