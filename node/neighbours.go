package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sheepdog/api"
)

// Who starts a sheep without -c has not said which cluster it is for. It finds the sheep
// of the same user and host, and those may be somebody else's: they would become one
// cluster with it, and its directory would hold their data. So a sheep that belongs to
// no cluster yet does not start by default where others live than neighbours, whose META
// is in the same directory as its own; and until it is a member, and later, it looks for
// those only.

// Limits of the answers of other sheep of this host. One that is being started answers
// when it has read its log.
const (
	newcomerLimit  = 10 * time.Second // which a newcomer waits for
	neighbourLimit = 2 * time.Second  // when neighbours are looked for, now and then
)

// what a sheep of this host is to another.
type acquaintance uint8

const (
	nobody acquaintance = iota // no sheep is there
	neighbour
	stranger
)

// encounter is who was found at an address.
type encounter struct {
	acquaintance
	addr, note string
}

// checkNeighbours refuses to join any of the sheep at addrs that is no neighbour.
func (n *Node) checkNeighbours(addrs []string) error {
	var strangers []string
	for _, e := range n.encounters(addrs, newcomerLimit) {
		if e.acquaintance == stranger {
			strangers = append(strangers, fmt.Sprintf("%s (%s)", e.addr, e.note))
		}
	}
	if strangers == nil {
		return nil
	}
	return fmt.Errorf("not started: no -c says which cluster %s is for, and on this host there are sheep whose directories are not beside it: %s; "+
		"give -c local to join them, or -c local:FILE, with a file of its own, for another cluster", n.cfg.Meta, strings.Join(strangers, ", "))
}

// neighboursAmong lists those of addrs at which there are neighbours.
func (n *Node) neighboursAmong(addrs []string) (out []string) {
	for _, e := range n.encounters(addrs, neighbourLimit) {
		if e.acquaintance == neighbour {
			out = append(out, e.addr)
		}
	}
	return out
}

// encounters asks all who are at addrs.
func (n *Node) encounters(addrs []string, limit time.Duration) []encounter {
	ctx, cancel := context.WithTimeout(n.ctx, limit)
	defer cancel()
	out := make([]encounter, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() { out[i] = n.encounter(ctx, addr) })
	}
	wg.Wait()
	return out
}

// encounter asks the sheep at addr where its META is. A port that another sheep had
// before tells of nothing: whoever is there now answers.
func (n *Node) encounter(ctx context.Context, addr string) encounter {
	c := api.NewClient(addr)
	defer c.Close()
	st, err := c.Status(ctx)
	gone := new(api.ConnectError)
	switch {
	case errors.As(err, &gone):
		return encounter{acquaintance: nobody, addr: addr}
	case err != nil:
		return encounter{stranger, addr, fmt.Sprintf("it does not say where: %v", err)}
	case st.Meta == "":
		return encounter{stranger, addr, "another release, which does not say where"}
	case neighbours(n.cfg.Meta, st.Meta):
		return encounter{neighbour, addr, st.Meta}
	}
	return encounter{stranger, addr, st.Meta}
}

// neighbours reports whether both are in one directory, and that is not one in which
// everybody may have something, such as /tmp.
func neighbours(meta, other string) bool {
	dir := parent(meta)
	if dir != parent(other) {
		return false
	}
	info, err := os.Stat(dir)
	return err == nil && info.Mode().Perm()&0o002 == 0
}

// parent is the directory in which META is, under its real name.
func parent(meta string) string {
	dir := filepath.Dir(meta)
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	return dir
}
