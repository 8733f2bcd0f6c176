package objectstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog"
)

// BenchmarkDestage is what a destage costs for each block that was written, to disks
// of two sizes, served here or by another node: CPU of the process and time. Blocks that
// were written again before they were moved count as well. The disks have been written over
// before, so that there is slack of all kinds.
func BenchmarkDestage(b *testing.B) {
	for _, c := range []struct {
		objects int // of 4 MiB
		remote  bool
	}{{96, false}, {96, true}, {1024, false}, {1024, true}} {
		objects := c.objects
		b.Run(fmt.Sprintf("%dMiB-remote=%v", 4*objects, c.remote), func(b *testing.B) {
			d := openDisk(b, Options{DestageEvery: time.Hour}).d
			if !c.remote {
				d.Serving(1)
			}
			large := make([]byte, 1<<20)
			errs := make([]error, 16)
			seq := uint64(1)
			write := func(ops ...sheepdog.Op) {
				if d.Write(ops, errs); errs[0] != nil {
					b.Fatal(errs[0])
				}
				seq++
			}
			for i := range 4 * objects {
				write(sheepdog.Op{
					Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i / 4)}, Layer: 1,
					Start: sheepdog.BlockNo(i % 4 * 256), Count: 256, Data: large, Stamp: sheepdog.Stamp{Token: 1, Seq: seq},
				})
			}
			r := rand.New(rand.NewPCG(1, 1))
			ops := make([]sheepdog.Op, 8)
			fill := func() {
				for d.journal.segments() < d.journal.maxSegs/2-1 { // nobody asks for a destage yet
					for i := range ops {
						ops[i] = sheepdog.Op{
							Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(objects))}, Layer: 1,
							Start: sheepdog.BlockNo(r.IntN(1024)), Count: 1, Data: large[:blockSize], Stamp: sheepdog.Stamp{Token: 1, Seq: seq},
						}
					}
					write(ops...)
				}
			}
			lap := func() {
				if err := d.destage(false); err != nil {
					b.Fatal(err)
				}
			}
			for range benchLaps {
				fill()
				lap()
			}
			var used time.Duration
			blocks := 0
			began := d.journal.next
			b.ResetTimer()
			for b.Loop() {
				b.StopTimer()
				fill()
				before := cpuTime(b)
				b.StartTimer()
				lap()
				b.StopTimer()
				used += cpuTime(b) - before
				b.StartTimer()
			}
			blocks = int(d.journal.next - began)
			b.ReportMetric(float64(used.Microseconds())/float64(blocks), "cpu-us/block")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(blocks), "us/block")
			b.ReportMetric(float64(d.volumes.all()[0].space.slackBlocks())/float64(d.volumes.usedBlocks()), "slack/used")
		})
	}
}

// benchLaps is how often the log was destaged before anything is measured.
const benchLaps = 12

// cpuTime is what the process has used.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFlushBesideDestage is how long a write of one block with a flush takes while
// a log of 128 MiB is destaged: most of them and the longest.
func BenchmarkFlushBesideDestage(b *testing.B) {
	const objects = 96
	d := openDisk(b, Options{DestageEvery: time.Hour}).d
	data := make([]byte, blockSize)
	r := rand.New(rand.NewPCG(1, 1))
	seq := uint64(0)
	write := func() {
		seq++
		mustWrite(b, d, sheepdog.Op{
			Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(objects))}, Layer: 1,
			Start: sheepdog.BlockNo(r.IntN(1024)), Count: 1, Data: data, Stamp: sheepdog.Stamp{Token: 1, Seq: seq},
		})
	}
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		for d.journal.segments() < d.journal.maxSegs/2 {
			write()
		}
		if err := d.Flush(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		done := make(chan error, 1)
		go func() {
			giveWay()
			done <- d.destage(false)
		}()
		for busy := true; busy; {
			select {
			case err := <-done:
				if busy = false; err != nil {
					b.Fatal(err)
				}
			default:
				began := time.Now()
				write()
				if err := d.Flush(); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
		}
	}
	slices.Sort(took)
	ms := func(part float64) float64 { return took[int(part*float64(len(took)-1))].Seconds() * 1e3 }
	b.ReportMetric(ms(0.5), "ms-median")
	b.ReportMetric(ms(0.9), "ms-p90")
	b.ReportMetric(ms(1), "ms-longest")
	b.ReportMetric(float64(len(took))/float64(b.N), "flushes/destage")
}
