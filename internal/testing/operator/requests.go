// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Requests records the operator's requests to the API server.
type Requests struct {
	next http.RoundTripper
	mu   sync.Mutex
	all  []string // "PATCH /apis/…"
}

// RoundTrip records a request and sends it.
func (c *Requests) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.all = append(c.all, req.Method+" "+req.URL.Path+"?"+req.URL.RawQuery)
	c.mu.Unlock()
	return c.next.RoundTrip(req)
}

// Writes returns the writes so far, without events and leases, as
// "PATCH m2mclients/status".
func (c *Requests) Writes() []string {
	return c.Filter(func(method, _ string) bool { return method != http.MethodGet })
}

// Reads returns the reads so far, except watches and the lists of caches.
func (c *Requests) Reads() []string {
	return c.Filter(func(method, query string) bool { return method == http.MethodGet && query == "" })
}

// Sent returns the requests so far, as "PATCH /apis/…?query".
func (c *Requests) Sent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// Filter returns the requests that a function selects, without events and leases, as
// "PATCH m2mclients/status".
func (c *Requests) Filter(keep func(method, query string) bool) []string {
	out := []string{}
	for _, r := range c.Sent() {
		method, rest, _ := strings.Cut(r, " ")
		path, query, _ := strings.Cut(rest, "?")
		if i := strings.Index(query, "fieldManager="); i >= 0 && method != http.MethodGet {
			query = ""
		}
		_, parts := splitPath(path)
		if parts[0] == "events" || parts[0] == "leases" || !keep(method, query) {
			continue
		}
		what := parts[0]
		if len(parts) > 2 {
			what += "/" + parts[2]
		}
		out = append(out, method+" "+what)
	}
	return out
}

// splitPath splits the path of a request to the API server into the namespace, empty if
// there is none, and the resource, name and subresource.
func splitPath(path string) (namespace string, parts []string) {
	parts = strings.Split(strings.Trim(path, "/"), "/")
	if i := slices.Index(parts, "namespaces"); i >= 0 && len(parts) > i+2 {
		return parts[i+1], parts[i+2:]
	}
	if i := slices.IndexFunc(parts, func(s string) bool { return s == "v1" || s == "v1alpha1" }); i >= 0 && len(parts) > i+1 {
		return "", parts[i+1:]
	}
	return "", parts
}

// Reset forgets the requests so far.
func (c *Requests) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = nil
}

// Touches returns how often the operator has patched pods so far.
func (op *Operator) Touches() int {
	n := 0
	for _, w := range op.Requests.Writes() {
		if strings.HasPrefix(w, "PATCH pods") {
			n++
		}
	}
	return n
}
