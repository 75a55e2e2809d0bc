// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// Proxy is a wire as a server. It is what an operator calls that is a process, and in front of every
// authorization server.
type Proxy struct {
	URL string

	to     *url.URL
	server *http.Server
	served sync.WaitGroup
}

// NewProxy listens on a free port of 127.0.0.1. It answers once Serve says to whom the requests go, so that
// a server can have the proxy's address as its own.
func NewProxy() (*Proxy, net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	return &Proxy{URL: "http://" + listener.Addr().String()}, listener, nil
}

// Serve passes all requests over a wire. A request that gets no answer there breaks the caller's
// connection; one that times out gets no answer until the caller gives up.
func (p *Proxy) Serve(listener net.Listener, to *url.URL, over http.RoundTripper) {
	p.to = to
	p.server = &http.Server{
		ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		Handler: &httputil.ReverseProxy{
			Transport: over, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(p.to) },
			ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
				if errors.Is(err, timeOut{}) {
					<-r.Context().Done()
				}
				panic(http.ErrAbortHandler)
			},
		},
	}
	p.served.Go(func() { _ = p.server.Serve(listener) })
}

// Close stops the proxy and breaks its connections.
func (p *Proxy) Close() {
	_ = p.server.Close()
	p.served.Wait()
}
