package node

import (
	"io"
	"net"
	"net/http"
	"testing"
)

// TestAnswerIsSentBeforeTheNodeIsGone: `dog cluster shutdown` now and then failed with
// EOF, because the node that had stopped all others closed its API while it answered.
func TestAnswerIsSentBeforeTheNodeIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun, closing := make(chan struct{}), make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-closing
		io.WriteString(w, "stopped")
	})}
	go func() {
		s.Serve(l) // ends as soon as the server begins to close
		close(closing)
	}()
	go func() {
		<-begun
		closeHTTP(s)
	}()
	resp, err := http.Post("http://"+l.Addr().String(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "stopped" {
		t.Errorf("answer %q, %v", b, err)
	}
}
