// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	// slowness is how long a slow answer takes.
	slowness = 50 * time.Millisecond
	// retryAfter is the Retry-After header of answers with 429, in seconds. It is short, because clients of the
	// API server wait by the real clock.
	retryAfter = "1"
)

// refuse fails a request that is not sent.
func refuse(req *http.Request, err error) error {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return err
}

// answer answers a request that is not sent.
func answer(side Side, fault Fault, req *http.Request) (*http.Response, error) {
	var status int
	switch fault {
	case TimeOut:
		return nil, refuse(req, timeOut{})
	case Conflict:
		status = http.StatusConflict
	case TooMany:
		status = http.StatusTooManyRequests
	case ServerError:
		status = http.StatusInternalServerError
	default:
		status = http.StatusServiceUnavailable
	}
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	body := "the server is in trouble"
	header := http.Header{"Content-Type": {"text/plain"}}
	if side == APIServer {
		header.Set("Content-Type", "application/json")
		body = fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":"by the test","code":%d}`, reasons[fault], status)
	}
	if fault == TooMany {
		header.Set("Retry-After", retryAfter)
	}
	return &http.Response{
		Status: http.StatusText(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}, nil
}

// reasons are those that the API server gives.
var reasons = map[Fault]string{Conflict: "Conflict", TooMany: "TooManyRequests", ServerError: "InternalError", Unavailable: "ServiceUnavailable"}

// timeOut is the error of a request without an answer.
type timeOut struct{}

func (timeOut) Error() string     { return "there was no answer in time" }
func (timeOut) Timeout() bool     { return true }
func (timeOut) Temporary() bool   { return true }
func (timeOut) Is(err error) bool { return err == context.DeadlineExceeded }

// cut ends an answer in the middle of its body.
func cut(resp *http.Response) (*http.Response, error) {
	all, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(all[:len(all)/2]), broken{}))
	return resp, nil
}

type broken struct{}

// Read implements io.Reader.
func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// keepBody makes the body of a request readable again for an observer.
func keepBody(req *http.Request) error {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	all, err := io.ReadAll(req.Body)
	if err := errors.Join(err, req.Body.Close()); err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(all))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(all)), nil }
	return nil
}

// bodyOf returns the body of a request that was kept.
func bodyOf(req *http.Request) []byte {
	if req.GetBody == nil {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil
	}
	all, _ := io.ReadAll(body)
	return all
}

// answerOf returns the body of an answer, which stays readable.
func answerOf(resp *http.Response) []byte {
	all, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	var end io.Reader = bytes.NewReader(nil)
	if err != nil {
		end = broken{}
	}
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(all), end))
	return all
}
