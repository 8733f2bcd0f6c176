package node

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// Sampling while somebody asks for the profile; at other times it is off, because
// it costs something at every lock.
const (
	mutexFraction    = 50     // one of so many contended unlocks
	blockNanoseconds = 10_000 // of blocking per sample
	maxProfile       = 300    // seconds
)

// serveProfiles offers profiles of this process, as net/http/pprof has them, on
// the unix socket META/pprof.sock: to whoever may read the node's directory, and
// to nobody on the network.
func (n *Node) serveProfiles() error {
	if n.cfg.standIn != nil {
		return nil // META does not work
	}
	path := filepath.Join(n.cfg.Meta, "pprof.sock")
	if len(path) > maxSocketPath {
		n.log.Warn("no profiles: the path of the socket is too long", "path", path)
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stale socket of profiles: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("socket of profiles: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	var sampling sync.Mutex // the settings are the process's
	mux.Handle("/debug/pprof/mutex", sampled(&sampling, "mutex", func(on bool) {
		runtime.SetMutexProfileFraction(pickInt(on, mutexFraction))
	}))
	mux.Handle("/debug/pprof/block", sampled(&sampling, "block", func(on bool) {
		runtime.SetBlockProfileRate(pickInt(on, blockNanoseconds))
	}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	n.spawn(func() { _ = s.Serve(l) }) // ends with Close
	n.onClose(func() { s.Close() })
	return nil
}

func pickInt(on bool, value int) int {
	if on {
		return value
	}
	return 0
}

// sampled is a profile that is only collected for the seconds that a request
// asks for.
func sampled(one *sync.Mutex, name string, collect func(on bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seconds, err := strconv.Atoi(r.FormValue("seconds"))
		if err != nil || seconds < 1 || seconds > maxProfile {
			http.Error(w, fmt.Sprintf("want ?seconds=N, 1 to %d: %s are sampled only meanwhile", maxProfile, name), http.StatusBadRequest)
			return
		}
		if !one.TryLock() {
			http.Error(w, "another profile is being taken", http.StatusConflict)
			return
		}
		defer one.Unlock()
		collect(true)
		defer collect(false)
		pprof.Handler(name).ServeHTTP(w, r)
	})
}
