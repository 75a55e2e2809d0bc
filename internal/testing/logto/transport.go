// SPDX-License-Identifier: Apache-2.0

package logto

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Transport reaches the server without a network: it executes a request to the
// server's endpoint in the caller's goroutine. Requests to any other address fail, as
// if nothing listened there.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

type transport struct{ server *Server }

// RoundTrip implements [http.RoundTripper].
func (t transport) RoundTrip(r *http.Request) (response *http.Response, err error) {
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	defer func() { _ = r.Body.Close() }()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if r.URL.Scheme+"://"+r.URL.Host != t.server.endpoint {
		return nil, &refused{r.URL.Host}
	}
	inner := r.Clone(r.Context())
	inner.RequestURI = r.URL.RequestURI()
	if inner.Host == "" {
		inner.Host = r.URL.Host
	}
	w := &recorded{header: http.Header{}}
	defer func() {
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
			response, err = nil, io.ErrUnexpectedEOF
			if ended := r.Context().Err(); ended != nil {
				err = ended
			}
		} else if p != nil {
			panic(p)
		}
	}()
	t.server.ServeHTTP(w, inner)
	return &http.Response{
		Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

type refused struct{ host string }

func (e *refused) Error() string {
	return "connect to " + strings.ToLower(e.host) + ": nobody listens there"
}

type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorded) Header() http.Header         { return w.header }
func (w *recorded) WriteHeader(status int)      { w.status = status }
func (w *recorded) Write(p []byte) (int, error) { return w.body.Write(p) }
