package program

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"syscall"
)

// Ports are chosen from firstPort on and below those that the host gives to whoever
// asks for no port in particular: an outgoing connection of a program that runs already
// would take one of these between its choice and its use. Where the host gives such
// low ones as well, any port may be chosen.
const (
	firstPort = 10000
	lastPort  = 65535
)

// FreePort finds a port that is free for TCP and UDP on the loopback address, and that nobody else who asks
// FreePort gets before this process ends, also in other processes.
func FreePort() (int, error) {
	n := portsBelow(ephemeralPorts())
	for i, start := 0, rand.IntN(n); i < n; i++ {
		port := firstPort + (start+i)%n
		if reserved, err := reservePort(port); err != nil {
			return 0, err
		} else if reserved && portIsFree(port) {
			return port, nil
		}
	}
	return 0, errors.New("no port is free for TCP and UDP")
}

// portsBelow is how many ports there are to choose from, where the host gives those from
// low on.
func portsBelow(low int) int {
	if low <= firstPort {
		low = lastPort + 1
	}
	return low - firstPort
}

// ephemeralPorts is the first port that the host gives to those who ask for none; 0 if
// it does not tell.
func ephemeralPorts() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0
	}
	low := 0
	if _, err := fmt.Sscan(string(b), &low); err != nil {
		return 0
	}
	return low
}

// reservePort takes the name of a port for as long as the process lives; false if
// another has it. Names of unix sockets without a file are those of a network
// namespace, as ports are. Nobody uses the socket: its name goes with the process,
// however that ends.
func reservePort(port int) (bool, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("reserve port %d: %w", port, err)
	}
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: "@sheepdog-port-" + strconv.Itoa(port)})
	if err == nil {
		return true, nil
	}
	err = errors.Join(err, syscall.Close(fd))
	if errors.Is(err, syscall.EADDRINUSE) {
		return false, nil
	}
	return false, fmt.Errorf("reserve port %d: %w", port, err)
}

// portIsFree reports whether one can listen at a port of the loopback address. It does so
// for an instant, where nobody from outside reaches it.
func portIsFree(port int) bool {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	u.Close()
	return true
}
