// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"net/http"
	"sync"
)

// resource is a kind of object in a namespace, by its plural as in paths.
type resource struct{ namespace, plural string }

// writes counts all writes over RESTConfig, by the test and by every operator, so that
// tests check for changes only where something was written.
type writes struct {
	mu sync.Mutex
	n  map[resource]int
}

// written holds the writes since the control plane started.
var written = &writes{n: map[resource]int{}}

// count returns how often a resource was written.
func (w *writes) count(r resource) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n[r]
}

// observed returns a transport that counts writes once they are answered.
func (w *writes) observed(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodGet {
			return next.RoundTrip(req)
		}
		defer func() {
			namespace, parts := splitPath(req.URL.Path)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.n[resource{namespace, parts[0]}]++
		}()
		return next.RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
