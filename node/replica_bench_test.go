package node

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/coded"
	"sheepdog/objectstore"
	"sheepdog/replica"
	"sheepdog/vdi/directory"
)

// still is a view that never changes.
type still struct{ v *sheepdog.View }

func (s still) View() *sheepdog.View                 { return s.v }
func (still) Changed(*sheepdog.View) <-chan struct{} { return nil }

const benchObjects = 128 // of 4 MiB

// benchReplica is what serves other nodes' writes, over a store on the host's disk
// that destages nothing for the first half million of them.
func benchReplica(b *testing.B) (handler, *sheepdog.WriteRequest) {
	dir := directory.New()
	_, body, err := directory.Encode(&directory.Create{Time: time.Unix(1, 0), Name: "v", Size: 1 << 30, Policy: sheepdog.Policy{Copies: 3}, BlockSizeShift: sheepdog.DefaultObjectShift})
	if err == nil {
		body, err = dir.Apply(1, "vdi-create", body)
	}
	if err != nil {
		b.Fatal(err)
	}
	disk, err := directory.Decode[directory.Created](body)
	if err != nil {
		b.Fatal(err)
	}
	engine, err := objectstore.Open(objectstore.Options{Meta: b.TempDir(), LogBytes: 8 << 30, MapCacheBytes: 1 << 30, NoSync: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	v := &sheepdog.View{Epoch: 9, Revision: 9, Tables: map[sheepdog.Policy]sheepdog.Table{{Copies: 3}: make(sheepdog.Table, sheepdog.Partitions)}}
	var all []sheepdog.NodeID
	for i := range 3 {
		m := sheepdog.Member{ID: sheepdog.NodeID(i+1) << 60, Incarnation: sheepdog.Incarnation(i + 7), Addr: "127.0.0.1:7000", Zone: sheepdog.Zone(i), VNodes: 128}
		v.Members, all = append(v.Members, m), append(all, m.ID)
	}
	for p := range v.Tables[sheepdog.Policy{Copies: 3}] {
		v.Tables[sheepdog.Policy{Copies: 3}][p] = &sheepdog.Placement{Acting: all, Target: all, Since: 3}
	}
	n := &Node{dir: dir}
	n.replica = replica.New(replica.Config{Self: all[1], Incarnation: 8, Engine: engine, Views: still{v}, Layers: layers{dir}})
	n.strips = coded.NewServer(n.replica, engine, n.layers())
	b.Cleanup(func() { engine.Close() })
	return handler{n}, &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: 9, Token: 4}, Policy: sheepdog.Policy{Copies: 3},
		Object: sheepdog.ObjectID{Family: disk.Family}, Layer: disk.Layer, Count: 1, Data: make([]byte, sheepdog.BlockSize)}
}

// BenchmarkReplicaWrite is what a node does for a batch of writes of 4 KiB at random
// places that another one sent. Cold-ns is the same where the processor's caches hold
// something else each time, as they do with one write in flight.
func BenchmarkReplicaWrite(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h, like := benchReplica(b)
			rnd := rand.New(rand.NewPCG(1, 2))
			reqs, seq := make([]*sheepdog.WriteRequest, n), uint64(0)
			for i := range reqs {
				r := *like
				reqs[i] = &r
			}
			write := func() (took time.Duration) {
				for _, r := range reqs {
					seq++
					r.Object.Index, r.Start = sheepdog.Index(rnd.IntN(benchObjects)), sheepdog.BlockNo(rnd.IntN(1024))
					r.Stamp = sheepdog.Stamp{Token: r.Token, Seq: seq}
				}
				began := time.Now()
				h.Write(context.Background(), reqs, func(_ int, err error) {
					if err != nil {
						b.Error(err)
					}
				})
				return time.Since(began)
			}
			for range 20_000 {
				write()
			}
			other, cold := make([]uint64, 1<<18), time.Duration(0)
			b.ReportAllocs()
			b.ResetTimer()
			var warm time.Duration
			for i := range b.N {
				if i%8 == 0 {
					b.StopTimer()
					for k := range other {
						other[k]++
					}
					cold += write()
					b.StartTimer()
				}
				warm += write()
			}
			b.ReportMetric(float64(warm)/float64(b.N*n), "warm-ns/write")
			b.ReportMetric(float64(cold)/float64((b.N+7)/8*n), "cold-ns/write")
		})
	}
}
