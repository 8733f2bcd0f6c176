package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"sheepdog"
)

// errorTrailer carries the JSON error of a stream of VDI data that failed after
// it began, to clients that announce with `TE: trailers` that they look at it.
// Others find their connection cut.
const errorTrailer = "X-Sheepdog-Error"

// readVDI streams the bytes of a VDI or snapshot.
func (s *Server) readVDI(w http.ResponseWriter, r *http.Request) error {
	req, err := readRequest(r)
	if err != nil {
		return err
	}
	trailers := r.Header.Get("TE") == "trailers"
	if trailers {
		w.Header().Set("Trailer", errorTrailer)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &stallWriter{w: w, rc: http.NewResponseController(w), limit: s.opts.StallTimeout}
	err = s.backend.ReadVDI(r.Context(), req, out)
	if err == nil {
		return nil
	}
	if out.sent == 0 {
		w.Header().Del("Trailer")
		return err
	}
	if !trailers || out.failed {
		return err
	}
	e, _ := json.Marshal(describe(err))
	w.Header().Set(errorTrailer, string(e))
	return nil
}

func readRequest(r *http.Request) (*ReadRequest, error) {
	q, err := params(r, "name", "snapshot", "offset", "length")
	if err != nil {
		return nil, err
	}
	req := &ReadRequest{Name: q.Get("name"), Snapshot: Selector(q.Get("snapshot")), Length: ToEnd}
	if req.Offset, err = position(q, "offset", 0); err != nil {
		return nil, err
	}
	if q.Has("length") {
		n, err := position(q, "length", 0)
		if err != nil {
			return nil, err
		}
		req.Length = int64(n)
	}
	return req, req.check()
}

// writeVDI writes the body to the working VDI.
func (s *Server) writeVDI(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "name", "offset")
	if err != nil {
		return err
	}
	req := &WriteRequest{Name: q.Get("name"), Length: r.ContentLength}
	if req.Offset, err = position(q, "offset", 0); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	in := &stallReader{r: r.Body, rc: http.NewResponseController(w), limit: s.opts.StallTimeout}
	n, err := s.backend.WriteVDI(r.Context(), req, in)
	if in.err != nil && !errors.Is(in.err, io.EOF) {
		err = invalid(fmt.Sprintf("the data stopped after %d bytes: %v", in.got, in.err))
	}
	if err != nil {
		return &partialError{written: n, err: err}
	}
	return reply(w, WriteReply{Version: Version, Written: n}, nil)
}

// partialError is a failed write of which a part may have been done.
type partialError struct {
	written int64
	err     error
}

func (e *partialError) Error() string {
	if e.written == 0 {
		return e.err.Error()
	}
	return fmt.Sprintf("%v (after %d bytes were written)", e.err, e.written)
}

func (e *partialError) Unwrap() error { return e.err }

// stallWriter gives every write its time-out.
type stallWriter struct {
	w      io.Writer
	rc     *http.ResponseController
	limit  time.Duration
	sent   int64
	failed bool // the client is gone
}

func (s *stallWriter) Write(b []byte) (int, error) {
	_ = s.rc.SetWriteDeadline(time.Now().Add(s.limit))
	n, err := s.w.Write(b)
	s.sent += int64(n)
	if err != nil {
		s.failed = true
		return n, fmt.Errorf("send to the client: %w", err)
	}
	_ = s.rc.SetWriteDeadline(time.Time{})
	return n, nil
}

// stallReader gives every read its time-out and remembers how the body ended.
type stallReader struct {
	r     io.Reader
	rc    *http.ResponseController
	limit time.Duration
	got   int64
	err   error
}

func (s *stallReader) Read(b []byte) (int, error) {
	_ = s.rc.SetReadDeadline(time.Now().Add(s.limit))
	n, err := s.r.Read(b)
	_ = s.rc.SetReadDeadline(time.Time{})
	s.got += int64(n)
	s.err = err
	return n, err
}

// check streams events as one JSON document per line.
func (s *Server) check(w http.ResponseWriter, r *http.Request) error {
	req := &CheckRequest{}
	if err := body(s, w, r, req); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &stallWriter{w: w, rc: http.NewResponseController(w), limit: s.opts.StallTimeout}
	send := func(e *CheckEvent) error {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
		return out.rc.Flush()
	}
	sum, err := s.backend.Check(r.Context(), req, send)
	switch {
	case err == nil && sum == nil:
		err = fmt.Errorf("%w: check ended without a summary", sheepdog.ErrClosed)
	case err == nil:
		sum.Version = Version
		return send(&CheckEvent{Summary: sum})
	}
	if out.sent == 0 || out.failed {
		return err
	}
	return send(&CheckEvent{Error: describe(err)})
}
