package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// apiLimit is how long a sheep may take to answer a question about itself.
const apiLimit = 5 * time.Second

// Get asks the control API of a sheep for a document.
func (l *Lab) Get(s *Sheep, path string, into any) error {
	client := &http.Client{Timeout: apiLimit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: s.dial}}
	addr := "127.0.0.1"
	if s.NS != "" {
		addr = s.Addr
	}
	resp, err := client.Get("http://" + net.JoinHostPort(addr, strconv.Itoa(s.Port)) + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// dial connects from the namespace of the sheep.
func (s *Sheep) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	var d net.Dialer
	if s.NS == "" {
		return d.DialContext(ctx, network, addr)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked: the thread ends, with its namespace
		fd, e := unix.Open("/run/netns/"+s.NS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = e
			return
		}
		defer unix.Close(fd)
		if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
			conn, err = d.DialContext(ctx, network, addr)
		}
	}()
	<-done
	return conn, err
}

// Leader is the sheep that leads the Raft group, as the first living one that
// knows says, or nil.
func (l *Lab) Leader() *Sheep {
	type status struct {
		Node struct {
			ID any `json:"id"`
		} `json:"node"`
		Leader any `json:"leader"`
	}
	byID := map[any]*Sheep{}
	var leader any
	for _, s := range l.Sheep {
		var st status
		if s.Alive() && l.Get(s, "/v1/status", &st) == nil {
			byID[st.Node.ID] = s
			if leader == nil {
				leader = st.Leader
			}
		}
	}
	return byID[leader]
}
