// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// Transport answers requests to any host in the caller's goroutine, without a
// connection, for tests that make very many of them. A truncated answer ends as it
// does on a connection.
func (s *Server) Transport() http.RoundTripper { return transport{s.http.Handler} }

type transport struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	q := r.Clone(r.Context())
	q.RequestURI, q.RemoteAddr = r.URL.RequestURI(), "127.0.0.1:1"
	if q.Body == nil {
		q.Body = http.NoBody
	}
	defer func() { _ = q.Body.Close() }()
	a := &inProcess{header: http.Header{}}
	cut := a.serve(t.handler, q)
	switch {
	case r.Context().Err() != nil:
		return nil, r.Context().Err()
	case cut && a.status == 0:
		return nil, io.EOF
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	var body io.Reader = &a.body
	if cut {
		body = io.MultiReader(&a.body, failing{io.ErrUnexpectedEOF})
	}
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: io.NopCloser(body), ContentLength: -1, Request: r,
	}, nil
}

// inProcess is an answer while its handler writes it.
type inProcess struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *inProcess) Header() http.Header { return a.header }

func (a *inProcess) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *inProcess) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// serve reports whether the handler broke the answer off.
func (a *inProcess) serve(h http.Handler, r *http.Request) (cut bool) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		cut = true
	}()
	h.ServeHTTP(a, r)
	return false
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
