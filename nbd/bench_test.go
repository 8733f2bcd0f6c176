package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"
	"testing"
)

// BenchmarkRequests measures 4 KiB requests over a unix socket, with a client
// in the same process that keeps depth requests in flight; its CPU and
// allocations (none) are in the figures. cpu-us/op is of the whole process.
func BenchmarkRequests(b *testing.B) {
	mem := newMemDevice(64 << 20)
	for _, bench := range []struct {
		name string
		dev  Device
		cmd  command
	}{{"read", mem, cmdRead}, {"read-prompt", promptDevice{mem}, cmdRead}, {"write", mem, cmdWrite}} {
		for _, depth := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/depth=%d", bench.name, depth), func(b *testing.B) {
				benchRequests(b, bench.dev, bench.cmd, depth)
			})
		}
	}
}

func benchRequests(b *testing.B, dev Device, cmd command, depth int) {
	const block = 4096
	c := newRig(b, dev).connect("disk", true)
	var payload []byte
	reply := simpleSize
	if cmd == cmdWrite {
		payload = make([]byte, block)
	} else {
		reply = structuredSize + 8 + block
	}
	request := requestBytes(header{cmd: cmd, length: block}, payload)
	replies := make([]byte, reply*depth)
	batch := make([]byte, 0, len(request)*depth)
	b.SetBytes(block)
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	ready := depth
	for sent, got := 0, 0; got < b.N; {
		batch = batch[:0]
		for ; ready > 0 && sent < b.N; sent++ {
			binary.BigEndian.PutUint64(request[16:], uint64(sent*7919%16384)*block)
			batch = append(batch, request...)
			ready--
		}
		if len(batch) > 0 {
			if _, err := c.nc.Write(batch); err != nil {
				b.Fatal(err)
			}
		}
		n := max(1, c.r.Buffered()/reply)
		n = min(n, sent-got)
		if _, err := io.ReadFull(c.r, replies[:n*reply]); err != nil {
			b.Fatal(err)
		}
		got += n
		ready += n
	}
	b.StopTimer()
	b.ReportMetric((cpuTime(b)-before)*1e6/float64(b.N), "cpu-us/op")
}

// cpuTime is the CPU time of this process in seconds.
func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
