package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog/tests/internal/lab"
	"sheepdog/tests/internal/nbdclient"
	"sheepdog/tests/internal/workload"
)

const (
	setSize         = 2 << 30          // of the disk that a node lacks a part of, in bytes
	changedBlocks   = setSize / 409600 // 1 % in blocks of 4 KiB
	recoveryLimit   = 3 * time.Second
	recoveryTraffic = setSize * 3 / 100 // bytes
)

// A node is away while 1 % of a disk changes. It fetches that and little more, in
// seconds.
func TestRecoveryOfOnePercent(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	a.Dog("vdi", "create", "set", fmt.Sprint(setSize))
	a.write("set", pieces(setSize, 1<<20), 1<<20)
	for round := range rounds(t, 3, 0) {
		away := a.Sheep[round%3]
		a.Kill(away)
		time.Sleep(time.Second)
		var blocks []uint64
		for _, i := range a.rng.Perm(setSize / 4096)[:changedBlocks] {
			blocks = append(blocks, uint64(i)*4096)
		}
		a.write("set", blocks, 4096)
		before := received(t, away)
		start := time.Now()
		a.Run(away)
		answers := time.Since(start)
		a.Recovered(time.Minute)
		took := time.Since(start)
		moved := received(t, away) - before
		t.Logf("round %d: complete %v after its start (it answered after %v), %d bytes received, %.2f %% of the set", round,
			took.Round(time.Millisecond), answers.Round(time.Millisecond), moved, 100*float64(moved)/setSize)
		if took > recoveryLimit {
			t.Errorf("%v is more than %v", took, recoveryLimit)
		}
		if moved > recoveryTraffic {
			t.Errorf("%d bytes are more than %d", moved, recoveryTraffic)
		}
	}
	a.Checked()
}

// pieces are the offsets of all pieces of a disk.
func pieces(size, piece uint64) (out []uint64) {
	for off := uint64(0); off < size; off += piece {
		out = append(out, off)
	}
	return out
}

// write writes noise at offsets of a VDI, by one client at the first living sheep,
// and flushes.
func (a *arena) write(vdi string, offsets []uint64, size int) {
	a.t.Helper()
	c, err := nbdclient.Dial(context.Background(), a.Socket(a.First()), vdi)
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	const depth = 8
	var g errgroup.Group
	for k := range depth {
		noise := rand.NewChaCha8([32]byte{byte(k), byte(a.rng.Uint32()), byte(a.rng.Uint32()), byte(a.rng.Uint32())})
		g.Go(func() error {
			p := make([]byte, size)
			for i := k; i < len(offsets); i += depth {
				noise.Read(p)
				if err := c.Write(p, offsets[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		a.t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		a.t.Fatal(err)
	}
}

// received counts the bytes that the link of a sheep has received, also in earlier
// lives of its process.
func received(t *testing.T, s *lab.Sheep) uint64 {
	t.Helper()
	b, err := s.Command(t.Context(), "cat", "/proc/net/dev").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lab.Rows(string(b)) {
		if name, counts, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == "eth0" {
			var n uint64
			if _, err := fmt.Sscan(counts, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no eth0")
	return 0
}

const (
	filledSize    = 1 << 30
	leastClients  = 0.65 // of their rate while nothing is recovered
	slowestFilled = 2.0  // times as long as without clients
)

// A node comes back empty and is filled: guests go on at most of their speed, and
// the filling is not much slower for them.
func TestClientsDuringRecovery(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	a.Dog("vdi", "create", "set", fmt.Sprint(filledSize))
	a.write("set", pieces(filledSize, 1<<20), 1<<20)
	alone := a.refill(a.Sheep[2])
	a.reg.populate(workload.Config{Depth: 16}, a.Sheep[0])
	time.Sleep(time.Second)
	from := a.reg.guests.Now()
	time.Sleep(6 * time.Second)
	to := a.reg.guests.Now()
	a.Kill(a.Sheep[2])
	time.Sleep(time.Second)
	together := a.refill(a.Sheep[2])
	end := a.reg.guests.Now() - time.Since(together.end)
	begin := end - together.took()
	seen := a.reg.stop()
	a.reg.judge()
	normal := float64(seen.Answered(from, to)) / (to - from).Seconds()
	during := float64(seen.Answered(begin, end)) / (end - begin).Seconds()
	t.Logf("%d MiB filled in %v without guests, in %v with; it took all sheep %v of processors without; guests read and write %.0f registers per second, %.0f during it (%.0f %%)",
		filledSize>>20, alone.took().Round(time.Millisecond), together.took().Round(time.Millisecond), alone.work, normal, during, 100*during/normal)
	if during < leastClients*normal {
		t.Errorf("guests have %.0f %% of their speed, want %.0f %%", 100*during/normal, 100*leastClients)
	}
	if together.took() > time.Duration(slowestFilled*float64(alone.took())) {
		t.Errorf("%v is more than %v times %v", together.took(), slowestFilled, alone.took())
	}
	a.Checked()
}

// filling is from when an emptied sheep answers until it is complete.
type filling struct {
	start, end time.Time
	work       time.Duration // what all sheep took of the processors, whatever for
}

func (f *filling) took() time.Duration { return f.end.Sub(f.start) }

// refill empties a sheep and has it filled. What empties and starts it takes its part
// of the processors, too, and is not counted.
func (a *arena) refill(s *lab.Sheep) *filling {
	a.t.Helper()
	if s.Alive() {
		a.Kill(s)
	}
	lab.Tool(a.t, "rm", "-rf", a.Meta(s))
	a.Run(s)
	f := &filling{start: time.Now(), work: -a.worked()}
	f.end = a.RecoveredSeen(a.Sheep[0], 3*time.Minute)
	f.work += a.worked()
	a.Recovered(time.Minute)
	return f
}

// worked is what the processes of all sheep have had of the processors.
func (a *arena) worked() (sum time.Duration) {
	a.t.Helper()
	for _, s := range a.Sheep {
		sum += a.Processor(s)
	}
	return sum
}
