package api

import (
	"errors"
	"io"
	"sync"
)

// sourceReader remembers why the data of a write could not be read, which the
// HTTP client reports only as a broken request.
type sourceReader struct {
	r io.Reader

	mu  sync.Mutex
	err error // guarded by mu: the HTTP client reads on its own goroutine
}

func (s *sourceReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *sourceReader) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
