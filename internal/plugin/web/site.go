// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"github.com/m2m-operator/m2m-operator/internal/plugin/inventory"
)

const (
	// Interval is how often the objects are read at most, however many pages are open. A
	// cluster in which reading takes long is read less often.
	Interval = 2 * time.Second
	// readTimeout is how long one reading may take.
	readTimeout = time.Minute
	// idle is how many times as long as the last reading took the site then waits.
	idle = 4
)

// Reading is what was read.
type Reading struct {
	Inventory *inventory.Inventory
	Model     *Model
}

// Read reads the objects and makes the model of them.
type Read func(context.Context) (Reading, error)

// Site serves the page to one user. Whoever does not know its secret path gets nothing, whether it is
// another user of the machine or a page of the web that is open in the same browser.
type Site struct {
	secret string
	hosts  map[string]bool
	read   Read
	clock  clock.PassiveClock

	last    atomic.Pointer[Reading] // nil before the first
	mu      sync.Mutex              // held while reading, so that all pages share one reading
	body    []byte                  // the model as JSON
	etag    string
	next    time.Time // when to read again
	stopped context.Context
}

// NewSite returns a site that listens on an address. It stops reading when the context ends.
func NewSite(ctx context.Context, address net.Addr, read Read, c clock.PassiveClock) (*Site, error) {
	_, port, err := net.SplitHostPort(address.String())
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	return &Site{
		secret: base64.RawURLEncoding.EncodeToString(secret), read: read, clock: c, stopped: ctx,
		hosts: map[string]bool{address.String(): true, net.JoinHostPort("localhost", port): true},
	}, nil
}

// Path is the path of the page, with the secret.
func (s *Site) Path() string { return "/" + s.secret + "/" }

// ServeHTTP serves the page and what belongs to it.
func (s *Site) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	switch {
	case !s.hosts[req.Host]:
		// A page of the web can let its own name lead to this machine. The browser then
		// sends that name.
		http.Error(w, "This site has another name: open the address that kubectl m2m ui printed", http.StatusMisdirectedRequest)
		return
	case req.Method != http.MethodGet:
		h.Set("Allow", http.MethodGet)
		http.Error(w, "This site is for reading only", http.StatusMethodNotAllowed)
		return
	}
	secret, path, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	if !equal(secret, s.secret) {
		http.Error(w, "Open the whole address that kubectl m2m ui printed", http.StatusNotFound)
		return
	}
	s.serve(w, req, path)
}

// equal compares in a time that does not depend on what differs.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// serve serves a path to whoever knows the secret.
func (s *Site) serve(w http.ResponseWriter, req *http.Request, path string) {
	h := w.Header()
	switch path {
	case "":
		h.Set("Content-Security-Policy", livePolicy)
		h.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(livePage())
		return
	}
	// The page is opened from anywhere, such as a terminal. The rest is for the page only.
	if from := req.Header.Get("Sec-Fetch-Site"); from != "" && from != "same-origin" && from != "none" {
		http.Error(w, "This is for the page only", http.StatusForbidden)
		return
	}
	switch path {
	case "page.css":
		h.Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write([]byte(style()))
	case "page.js":
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		_, _ = w.Write([]byte(script()))
	case "model.json":
		s.serveModel(w, req)
	case "yaml":
		s.serveYAML(w, req)
	default:
		http.Error(w, "There is no such page", http.StatusNotFound)
	}
}

// serveModel serves the model, unless the page has it.
func (s *Site) serveModel(w http.ResponseWriter, req *http.Request) {
	body, etag := s.model()
	w.Header().Set("ETag", etag)
	if req.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// serveYAML serves the YAML of the object that the query names, as text.
func (s *Site) serveYAML(w http.ResponseWriter, req *http.Request) {
	found, ok := "", false
	if last := s.last.Load(); last != nil { // without the lock: reading may take a minute
		found, ok = YAML(last.Inventory, req.URL.Query().Get("id"))
	}
	if !ok {
		http.Error(w, "There is no such object, or you may not read it", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(found))
}

// model returns the model as JSON, with its tag. It reads if it is time to.
func (s *Site) model() (body []byte, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	begun := s.clock.Now()
	if begun.Before(s.next) {
		return s.body, s.etag
	}
	ctx, cancel := context.WithTimeout(s.stopped, readTimeout)
	defer cancel()
	now, err := s.read(ctx)
	took := s.clock.Since(begun)
	s.next = begun.Add(took + max(Interval, idle*took))
	shown := Model{}
	switch {
	case err == nil:
		s.last.Store(&now)
		shown = *now.Model
		shown.ReadAt = nil // it would make every model another
	case s.last.Load() != nil:
		shown = *s.last.Load().Model
		shown.Error = cleaned(err.Error())
	default:
		shown = Model{Objects: []Object{}, Edges: []Edge{}, Error: cleaned(err.Error())}
	}
	body, err = json.Marshal(shown)
	if err != nil {
		body, _ = json.Marshal(Model{Objects: []Object{}, Edges: []Edge{}, Error: fmt.Sprintf("The model is not JSON: %v", err)})
	}
	sum := sha256.Sum256(body)
	s.body, s.etag = body, `"`+hex.EncodeToString(sum[:16])+`"`
	return s.body, s.etag
}
