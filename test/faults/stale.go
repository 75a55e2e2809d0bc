// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// view is how the caches of an operator see the objects of a resource.
type view struct {
	gate      chan struct{} // closed when what watches report is no longer kept back; nil: it is not
	broken    bool          // the watches that were kept back break then
	past      string        // the version at which lists show the objects; empty: the latest
	compacted int64         // the version below which the server no longer knows what has changed
}

// see changes how caches see a resource.
func (w *Wire) see(resource string, change func(*view)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.views == nil {
		w.views = map[string]*view{}
	}
	if w.views[resource] == nil {
		w.views[resource] = &view{}
	}
	change(w.views[resource])
}

// viewOf returns how caches see a resource now.
func (w *Wire) viewOf(resource string) view {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.views[resource]; v != nil {
		return *v
	}
	return view{}
}

// Hold keeps back what the watches of a resource report, until it is let go.
func (w *Wire) Hold(resource string) (letGo func()) {
	gate := make(chan struct{})
	w.see(resource, func(v *view) { v.gate, v.broken = gate, false })
	return sync.OnceFunc(func() {
		w.see(resource, func(v *view) { v.gate = nil })
		close(gate)
	})
}

// Past makes the first list of every cache show the objects of a resource as they were at a version, as
// an API server would that is older than the one that answered before. The present shows them again.
func (w *Wire) Past(resource, version string) (present func()) {
	w.see(resource, func(v *view) { v.past = version })
	return func() { w.see(resource, func(v *view) { v.past = "" }) }
}

// Compact breaks the watches of a resource that are held, and forgets what changed before a version: a
// cache that has older objects must list them anew, and sees only the last state of each.
func (w *Wire) Compact(resource, version string) error {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return fmt.Errorf("the version of a list: %w", err)
	}
	w.see(resource, func(v *view) { v.broken, v.compacted = true, n })
	return nil
}

// follow sends a request of a cache.
func (t *transport) follow(req *http.Request) (*http.Response, error) {
	c, _ := describe(t.side, req)
	resource, _, _ := strings.Cut(c.Object, " ")
	v, query := t.wire.viewOf(resource), req.URL.Query()
	streams := query.Get("sendInitialEvents") == "true"
	switch version, _ := strconv.ParseInt(query.Get("resourceVersion"), 10, 64); {
	case !query.Has("watch") && v.past != "" && !query.Has("continue"):
		req = req.Clone(req.Context())
		query.Set("resourceVersion", v.past)
		query.Set("resourceVersionMatch", "Exact")
		req.URL.RawQuery = query.Encode()
	case streams && v.past != "": // only lists show the past
		return status(req, http.StatusUnprocessableEntity, "Invalid")
	case query.Has("watch") && !streams && version > 0 && version < v.compacted:
		return expired(req)
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil || !query.Has("watch") {
		return resp, err
	}
	resp.Body = &heldBody{ReadCloser: resp.Body, ctx: req.Context(), wire: t.wire, resource: resource}
	return resp, nil
}

// status answers a request to the API server that is not sent.
func status(req *http.Request, code int, reason string) (*http.Response, error) {
	body, err := json.Marshal(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": "by the test", "code": code})
	return jsonAnswer(req, code, string(body)), err
}

// expired answers a watch that asks for changes since a version that was compacted away.
func expired(req *http.Request) (*http.Response, error) {
	body, err := json.Marshal(map[string]any{"type": "ERROR", "object": map[string]any{
		"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure", "reason": "Expired",
		"message": "The resourceVersion for the provided watch is too old.", "code": http.StatusGone,
	}})
	return jsonAnswer(req, http.StatusOK, string(body)+"\n"), err
}

func jsonAnswer(req *http.Request, code int, body string) *http.Response {
	return &http.Response{
		Status: http.StatusText(code), StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// heldBody delays the events of a watch while its resource is held.
type heldBody struct {
	io.ReadCloser
	ctx      context.Context
	wire     *Wire
	resource string
}

// Read waits until the resource is let go.
func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	waited := false
	for {
		v := b.wire.viewOf(b.resource)
		if v.gate == nil {
			if waited && v.broken {
				return 0, errBroken
			}
			return n, err
		}
		waited = true
		select {
		case <-v.gate:
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
}
