package program

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Bug: of 48 sheep that a benchmark started one had ended: a port was looked for, and
// taken by a connection of the sheep before, or chosen twice, until it was used.
func TestFreePortStaysFree(t *testing.T) {
	const processes, each = 4, 50
	var mu sync.Mutex
	seen := make(map[string]bool)
	note := func(port string) {
		mu.Lock()
		defer mu.Unlock()
		if seen[port] {
			t.Errorf("port %s was given twice", port)
		}
		seen[port] = true
	}
	if n := os.Getenv("FREE_PORTS"); n != "" { // in a child, which stays until it is told
		for range each {
			port, err := FreePort()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("port", port)
		}
		fmt.Println("done")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	low := ephemeralPorts()
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() { ports(t, note) })
	}
	for range each {
		wg.Go(func() {
			port, err := FreePort()
			if err != nil {
				t.Error(err)
			}
			if low > firstPort && port >= low {
				t.Errorf("port %d is one of those that connections get, from %d on", port, low)
			}
			note(strconv.Itoa(port))
		})
	}
	wg.Wait()
}

// ports has another process choose ports, and keeps it until the test ends.
func ports(t *testing.T, note func(port string)) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestFreePortStaysFree$")
	cmd.Env = append(os.Environ(), "FREE_PORTS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Error(err)
		return
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	var text strings.Builder
	for b := make([]byte, 4096); !strings.Contains(text.String(), "done\n"); {
		n, err := out.Read(b)
		if err != nil {
			t.Errorf("the other process: %v: %s", err, text.String())
			return
		}
		text.Write(b[:n])
	}
	for line := range strings.Lines(text.String()) {
		if port, ok := strings.CutPrefix(line, "port "); ok {
			note(strings.TrimSpace(port))
		}
	}
}

func TestFreePortIsNotOneInUse(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + strconv.Itoa(port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if portIsFree(port) {
		t.Error("a port that is listened on is free")
	}
	l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if portIsFree(port) {
		t.Error("a port with datagrams is free")
	}
}

func TestFreePortIsLookedForOnLoopbackOnly(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.2:"+strconv.Itoa(port))
	if err != nil {
		t.Skipf("there is no second loopback address: %v", err)
	}
	defer l.Close()
	if !portIsFree(port) {
		t.Error("a port that is in use at another address is looked for there")
	}
	w, err := net.Listen("tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if portIsFree(w.Addr().(*net.TCPAddr).Port) {
		t.Error("a port that is listened on at all addresses is free")
	}
}

func TestPortsToChooseFrom(t *testing.T) {
	for low, want := range map[int]int{0: 55536, 1024: 55536, firstPort: 55536, 10001: 1, 32768: 22768} {
		if n := portsBelow(low); n != want {
			t.Errorf("connections get ports from %d on: %d to choose from, want %d", low, n, want)
		}
	}
}
