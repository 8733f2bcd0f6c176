package objectstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sheepdog"
)

const killEnv = "OBJECTSTORE_TEST_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killEnv); dir != "" {
		if err := killedWriter(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	killObjects = 8
	killBlocks  = 256
)

// killedWriter writes until it is killed, and tells of every write that was
// acknowledged: a line with its sequence number, object, first block and count.
func killedWriter(dir string) error {
	seq, err := strconv.ParseUint(os.Getenv(killEnv+"_SEQ"), 10, 64)
	if err != nil {
		return err
	}
	d, err := Open(Options{Meta: dir, LogBytes: 4 << 20, MapCacheBytes: 1 << 20, headerSlack: 1, Logger: quiet()})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for ; ; seq++ {
		n := []int{1, 1, 3, 15, 20, 64}[seq%6]
		op := dataOp(sheepdog.Index(seq*7%killObjects), 1, sheepdog.BlockNo(seq*13%uint64(killBlocks-n)), killData(seq, n), seq)
		if err := writeOne(d, op); err != nil {
			return err
		}
		if _, err := fmt.Println(seq, op.Object.Index, op.Start, n); err != nil {
			return err
		}
		if seq%50 == 0 {
			if err := d.Flush(); err != nil {
				return err
			}
		}
	}
}

// killData has the sequence number all over.
func killData(seq uint64, n int) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, seq), n*blockSize/8)
}

// TestKill9 kills a writing process and looks for what it acknowledged.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	acked := make(map[[2]int]uint64) // object and block: the last sequence number
	seq := uint64(1)
	for round := range 3 {
		seq = killRound(t, dir, seq, 200+round*400, acked) + 1
		d, err := Open(Options{Meta: dir, LogBytes: 4 << 20, MapCacheBytes: 1 << 20, headerSlack: 1, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		checkAcked(t, d, acked, seq)
		if round%2 == 0 {
			d.abandonProcess() // the next writer finds the log as it was
		} else if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// abandonProcess lets go of a store without settling it.
func (d *Disk) abandonProcess() {
	d.closing.Store(true)
	d.cancel()
	d.done.Wait()
	_ = d.release()
}

// killRound runs a writer until so many writes were acknowledged.
func killRound(t *testing.T, dir string, seq uint64, writes int, acked map[[2]int]uint64) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killEnv+"="+dir, fmt.Sprintf("%s_SEQ=%d", killEnv, seq))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	last := seq
	for n := -1; ; n++ {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			break
		}
		if strings.HasPrefix(line, "ready") {
			continue
		}
		var s uint64
		var index, start, count int
		if _, err := fmt.Sscan(line, &s, &index, &start, &count); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		for i := range count {
			acked[[2]int{index, start + i}] = s
		}
		last = s
		if n == writes {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == 1 {
		t.Fatalf("writer ended by itself: %v", err)
	}
	return last + 1 // one more may have been done and not told of
}

func checkAcked(t *testing.T, d *Disk, acked map[[2]int]uint64, next uint64) {
	t.Helper()
	for index := range killObjects {
		buf, err := readBlocks(t, d, sheepdog.Index(index), 1, 0, killBlocks)
		if err != nil {
			t.Fatal(err)
		}
		for no := range killBlocks {
			b := buf[no*blockSize:][:blockSize]
			got := binary.LittleEndian.Uint64(b)
			if !bytes.Equal(b, killData(got, 1)) {
				t.Fatalf("object %d block %d is torn", index, no)
			}
			if want := acked[[2]int{index, no}]; got < want || got >= next {
				t.Fatalf("object %d block %d holds write %d, acknowledged was %d", index, no, got, want)
			}
		}
	}
}
