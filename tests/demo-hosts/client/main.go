// Command client runs in a guest of demo-hosts: a client of NBD that writes numbered
// blocks until it hears SIGTERM, or that reads them again.
//
//	client write SOCKET EXPORT
//	client verify SOCKET EXPORT COUNT
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"sheepdog/tests/internal/nbdclient"
)

const (
	blockSize = 4096
	blocks    = 2048 // of the disk, written in turn
	flushes   = 8    // blocks between two flushes
	pace      = 2 * time.Millisecond
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if len(args) < 3 {
		return fmt.Errorf("want write SOCKET EXPORT or verify SOCKET EXPORT COUNT, not %q", args)
	}
	c, err := nbdclient.Dial(ctx, args[1], args[2])
	if err != nil {
		return err
	}
	defer c.Close()
	switch {
	case args[0] == "write" && len(args) == 3:
		return write(ctx, c)
	case args[0] == "verify" && len(args) == 4:
		count, err := strconv.ParseUint(args[3], 10, 64)
		if err != nil {
			return err
		}
		return verify(c, count)
	}
	return fmt.Errorf("unknown command %q", args)
}

// content fills a block with what only the one of that number has.
func content(p []byte, number uint64) {
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, number))
	for i := 0; i < len(p); i += len(sum) {
		copy(p[i:], sum[:])
	}
}

func place(number uint64) uint64 { return number % blocks * blockSize }

// write ends with the first request that fails: no connection is made twice.
func write(ctx context.Context, c *nbdclient.Client) error {
	p := make([]byte, blockSize)
	longest, number := time.Duration(0), uint64(0)
	for ; ctx.Err() == nil; number++ {
		content(p, number)
		begin := time.Now()
		if err := c.Write(p, place(number)); err != nil {
			return fmt.Errorf("write %d: %w", number, err)
		}
		if number%flushes == 0 {
			if err := c.Flush(); err != nil {
				return fmt.Errorf("flush after write %d: %w", number, err)
			}
		}
		longest = max(longest, time.Since(begin))
		select {
		case <-time.After(pace):
		case <-ctx.Done():
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("last flush: %w", err)
	}
	fmt.Printf("wrote %d longest %d ms\n", number, longest.Milliseconds())
	return nil
}

// verify reads the last block of each place.
func verify(c *nbdclient.Client, count uint64) error {
	want, got := make([]byte, blockSize), make([]byte, blockSize)
	first := count - min(count, blocks)
	for number := first; number < count; number++ {
		if err := c.Read(got, place(number)); err != nil {
			return fmt.Errorf("read %d: %w", number, err)
		}
		if content(want, number); !bytes.Equal(got, want) {
			return fmt.Errorf("block %d of %d is not what was written", number, count)
		}
	}
	fmt.Printf("verified %d\n", count-first)
	return nil
}
