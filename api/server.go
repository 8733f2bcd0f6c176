package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"sheepdog"
)

// Limits of the server.
const (
	maxBody        = 1 << 20 // bytes of a JSON body
	maxHeader      = 64 << 10
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	defaultBody    = 30 * time.Second
	defaultStall   = 10 * time.Minute
	defaultRequest = 256
)

// Options of a Server; the zero value has usable defaults.
type Options struct {
	Logger *slog.Logger // nil: discards
	// BodyTimeout is how long a JSON body may take to arrive; 0: 30 s.
	BodyTimeout time.Duration
	// StallTimeout is how long a stream of VDI data or check events may stand
	// still because of the client; 0: 10 min.
	StallTimeout time.Duration
	// MaxRequests run at a time, others are refused with 503; 0: 256. Health
	// checks do not count.
	MaxRequests int
}

// Server is the control API as an http.Handler. It holds no state but the
// number of requests that run.
type Server struct {
	backend Backend
	opts    Options
	slots   chan struct{} // one entry per running request
	handler http.Handler
}

// NewServer serves the backend.
func NewServer(backend Backend, opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.BodyTimeout == 0 {
		opts.BodyTimeout = defaultBody
	}
	if opts.StallTimeout == 0 {
		opts.StallTimeout = defaultStall
	}
	if opts.MaxRequests == 0 {
		opts.MaxRequests = defaultRequest
	}
	s := &Server{backend: backend, opts: opts, slots: make(chan struct{}, opts.MaxRequests)}
	mux := http.NewServeMux()
	for _, rt := range s.routes() {
		mux.Handle(rt.method+" "+rt.path, s.wrap(rt))
	}
	mux.HandleFunc("/", s.noRoute)
	// A web page in the operator's browser must not be able to delete VDIs.
	s.handler = http.NewCrossOriginProtection().Handler(mux)
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// HTTPServer is an http.Server around s with time-outs and limits. The caller
// gives it a listener and shuts it down. Requests inherit base.
func (s *Server) HTTPServer(base context.Context) *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(_ net.Listener) context.Context { return base },
	}
}

// endpoint answers one route. An error is sent to the client if nothing was
// sent yet; otherwise the connection is cut, so that no client takes half an
// answer for a whole one.
type endpoint func(w http.ResponseWriter, r *http.Request) error

// wrap limits a route and turns its errors into answers.
func (s *Server) wrap(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !rt.unlimited {
			select {
			case s.slots <- struct{}{}:
				defer func() { <-s.slots }()
			default:
				s.fail(w, r, tooMany())
				return
			}
		}
		out := &started{ResponseWriter: w}
		err := rt.serve(out, r)
		if err == nil {
			return
		}
		if out.began {
			s.opts.Logger.Warn("answer cut short", "method", r.Method, "path", r.URL.Path, "err", err)
			panic(http.ErrAbortHandler)
		}
		s.fail(w, r, err)
	})
}

// fail answers with the JSON error of err.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		err = &Error{Code: CodeTooLarge, Status: http.StatusRequestEntityTooLarge, Message: "request body is larger than 1 MiB"}
	}
	e := describe(err)
	if e.Status >= http.StatusInternalServerError {
		s.opts.Logger.Warn("request failed", "method", r.Method, "path", r.URL.Path, "code", e.Code, "err", err)
	}
	sendJSON(w, e.Status, errorDocument{Version: Version, Error: e})
}

// noRoute answers what no route matches.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, &Error{
		Code: CodeNoRoute, Status: http.StatusNotFound, Message: "no such method and path: " + r.Method + " " + r.URL.Path,
		Hint: "GET /v1/openapi.json describes all",
	})
}

func tooMany() error {
	return &Error{Code: CodeTooMany, Status: http.StatusServiceUnavailable, Message: "too many requests are running on this node", Hint: "try again, or ask another node"}
}

// started remembers whether anything was sent.
type started struct {
	http.ResponseWriter
	began bool
}

func (s *started) WriteHeader(status int) {
	s.began = true
	s.ResponseWriter.WriteHeader(status)
}

func (s *started) Write(b []byte) (int, error) {
	s.began = true
	return s.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (s *started) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// invalid is an ErrInvalid with a reason.
func invalid(text string) error { return &invalidError{text} }

func invalidf(format string, args ...any) error { return invalid(fmt.Sprintf(format, args...)) }

type invalidError struct{ text string }

func (e *invalidError) Error() string { return e.text }
func (e *invalidError) Unwrap() error { return sheepdog.ErrInvalid }
