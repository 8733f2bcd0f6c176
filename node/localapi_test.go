package node

import (
	"fmt"
	"net"
	"net/http"
	"testing"

	"sheepdog/internal/program"
)

// TestProgramsOfThisHostNeedNoAddress: with the address of the hosts' network in
// /etc/default/sheepdog, `dog node list` on the host itself was refused.
func TestProgramsOfThisHostNeedNoAddress(t *testing.T) {
	port, err := program.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	local := fmt.Sprintf("127.0.0.1:%d", port)
	n := startFormatted(t, Config{Advertise: "127.0.0.2", APIAddr: local})
	for _, addr := range []string{local, n.self.Addr} {
		resp, err := http.Get("http://" + addr + "/v1/nodes")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", addr, resp.Status)
		}
	}
}

// Two sheep of one host may have one port at two addresses; both start.
func TestLocalAPIThatAnotherHasIsNoFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := startFormatted(t, Config{APIAddr: l.Addr().String()})
	resp, err := http.Get("http://" + n.self.Addr + "/v1/nodes")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}
