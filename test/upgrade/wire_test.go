// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
)

// answer is what an authorization server answered to a request.
type answer struct {
	Status int         `json:"status"`
	Header http.Header `json:"header,omitempty"`
	Body   string      `json:"body,omitempty"`
}

// answers are those to the requests that change nothing, by method and URL.
type answers map[string]answer

// asks returns the key of a request that changes nothing, or false. A new token for the
// operator's own use of Logto's Management API changes nothing, either: it lives in memory.
func asks(r *http.Request, body []byte) (key string, ok bool) {
	key = r.Method + " " + r.URL.String()
	management := r.Method == http.MethodPost && r.URL.Host == logtoHost && r.URL.Path == "/oidc/token" && bytes.Contains(body, []byte("default.logto.app"))
	return key, r.Method == http.MethodGet || management
}

// recorder leads requests to servers and keeps the last answer to each.
type recorder struct {
	to  map[string]http.RoundTripper // by host
	mu  sync.Mutex
	all answers
}

// ServeHTTP implements http.Handler.
func (c *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, ok := c.to[r.URL.Host]
	if !ok {
		http.Error(w, "no such host", http.StatusBadGateway)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	key, keep := asks(r, body)
	proxy := &httputil.ReverseProxy{Transport: to, Rewrite: func(*httputil.ProxyRequest) {}, ModifyResponse: func(a *http.Response) error {
		content, err := io.ReadAll(a.Body)
		a.Body = io.NopCloser(bytes.NewReader(content))
		if err == nil && keep && a.StatusCode != http.StatusNotModified {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.all[key] = answer{a.StatusCode, a.Header.Clone(), string(content)}
		}
		return err
	}}
	proxy.ServeHTTP(w, r)
}

// player answers as the servers did. It keeps what else it was asked.
type player struct {
	all answers

	mu            sync.Mutex
	asked         int
	changes, news []string
}

// ServeHTTP implements http.Handler.
func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	key, ok := asks(r, body)
	p.mu.Lock()
	defer p.mu.Unlock()
	a, known := p.all[key]
	switch {
	case !ok:
		p.changes = append(p.changes, key)
	case !known:
		p.news = append(p.news, key)
	default:
		p.asked++
		maps.Copy(w.Header(), a.Header)
		w.WriteHeader(a.Status)
		_, _ = io.WriteString(w, a.Body)
		return
	}
	http.Error(w, "", http.StatusServiceUnavailable)
}

// seen returns how many requests had an answer, those that would change something, and
// those to which no answer was recorded.
func (p *player) seen() (asked int, changes, news []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, slices.Clone(p.changes), slices.Clone(p.news)
}

// told returns what a test tells of requests.
func told(requests []string) string {
	return fmt.Sprintf("%d:\n%s", len(requests), strings.Join(requests, "\n"))
}
