package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"sheepdog"
)

const (
	copyBuffer   = 1 << 20 // bytes
	maxEventLine = 1 << 20
)

// ReadVDI writes bytes of a VDI or snapshot to w and returns their number. A
// nil error means that all of them came.
func (c *Client) ReadVDI(ctx context.Context, r *ReadRequest, w io.Writer) (int64, error) {
	q := url.Values{"name": {r.Name}, "offset": {decimal(r.Offset)}}
	if r.Snapshot != "" {
		q.Set("snapshot", string(r.Snapshot))
	}
	if r.Length >= 0 {
		q.Set("length", decimal(uint64(r.Length)))
	}
	req, err := c.request(ctx, http.MethodGet, "/v1/vdis/data", q, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("TE", "trailers")
	resp, err := c.send(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := copyData(w, resp.Body)
	if err != nil {
		return n, c.streamError(ctx, n, err)
	}
	if t := resp.Trailer.Get(errorTrailer); t != "" {
		e := &Error{}
		if json.Unmarshal([]byte(t), e) != nil {
			return n, fmt.Errorf("read stopped after %d bytes", n)
		}
		e.Status = statusOf(e.Code)
		return n, e
	}
	if r.Length >= 0 && n != r.Length {
		return n, fmt.Errorf("%w: %s sent %d of %d bytes", sheepdog.ErrUnreachable, c.addr, n, r.Length)
	}
	return n, nil
}

// writeFailure marks errors of the writer given to ReadVDI.
type writeFailure struct{ err error }

func (e *writeFailure) Error() string { return e.err.Error() }
func (e *writeFailure) Unwrap() error { return e.err }

// copyData is io.Copy with a big buffer, telling errors of w from those of r.
func copyData(w io.Writer, r io.Reader) (n int64, err error) {
	buf := make([]byte, copyBuffer)
	for {
		got, err := r.Read(buf)
		if got > 0 {
			put, werr := w.Write(buf[:got])
			n += int64(put)
			if werr != nil {
				return n, &writeFailure{werr}
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (c *Client) streamError(ctx context.Context, n int64, err error) error {
	var wf *writeFailure
	if errors.As(err, &wf) {
		return fmt.Errorf("write what was read: %w", wf.err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: the answer of %s broke off after %d bytes: %v", sheepdog.ErrUnreachable, c.addr, n, err)
}

// WriteVDI writes what r has to the working VDI and returns the number of bytes
// once they are durable.
func (c *Client) WriteVDI(ctx context.Context, w *WriteRequest, r io.Reader) (int64, error) {
	q := url.Values{"name": {w.Name}, "offset": {decimal(w.Offset)}}
	src := &sourceReader{r: r}
	req, err := c.request(ctx, http.MethodPut, "/v1/vdis/data", q, io.NopCloser(src))
	if err != nil {
		return 0, err
	}
	if w.Length >= 0 {
		req.ContentLength = w.Length
		if w.Length == 0 {
			req.Body = http.NoBody
		}
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	// An answer such as "no such VDI" comes before the data are sent.
	req.Header.Set("Expect", "100-continue")
	resp, err := c.send(req)
	if err != nil {
		if failure := src.failure(); failure != nil {
			return 0, fmt.Errorf("read the data to write: %w", failure)
		}
		return 0, err
	}
	defer resp.Body.Close()
	var out WriteReply
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorReply)).Decode(&out); err != nil {
		return 0, fmt.Errorf("answer of %s to a write is not understood: %w", c.addr, err)
	}
	return out.Written, nil
}

// Check runs a check and hands every event but the summary to visit.
func (c *Client) Check(ctx context.Context, r *CheckRequest, visit func(*CheckEvent) error) (*CheckSummary, error) {
	data, err := encode(r)
	if err != nil {
		return nil, err
	}
	var sum *CheckSummary
	err = c.lines(ctx, "/v1/check", data, func(line []byte) error {
		var e CheckEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("check event of %s is not understood: %w", c.addr, err)
		}
		switch {
		case e.Error != nil:
			e.Error.Status = statusOf(e.Error.Code)
			return e.Error
		case e.Summary != nil:
			sum = e.Summary
			return errLastLine
		}
		return visit(&e)
	})
	if err == nil && sum == nil {
		err = fmt.Errorf("%w: %s stopped before the check was complete", sheepdog.ErrUnreachable, c.addr)
	}
	return sum, err
}
