// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/m2m-operator/m2m-operator/internal/plugin/tree"
	"github.com/m2m-operator/m2m-operator/internal/testing/fleet"
)

// local is a site at 127.0.0.1:4321 with the company, its clock and what it reads.
type local struct {
	*Site
	clock   *clocktesting.FakeClock
	company *fleet.Company
	takes   time.Duration
	fails   error
	reads   atomic.Int32
}

func newSite(t *testing.T) *local {
	t.Helper()
	l := &local{clock: clocktesting.NewFakeClock(noon), company: fleet.NewCompany(noon)}
	read := func(ctx context.Context) (Reading, error) {
		l.reads.Add(1)
		l.clock.Step(l.takes)
		if l.fails != nil {
			return Reading{}, l.fails
		}
		inv := fleet.Inventory(l.company.Objects()...)
		m, err := Build(ctx, inv, Options{Now: l.clock.Now()})
		return Reading{inv, m}, err
	}
	s, err := NewSite(t.Context(), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4321}, read, l.clock)
	if err != nil {
		t.Fatal(err)
	}
	l.Site = s
	return l
}

// ask sends a request with headers, which come in pairs.
func (l *local) ask(method, path string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, "http://127.0.0.1:4321"+path, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	w := httptest.NewRecorder()
	l.ServeHTTP(w, req)
	return w
}

func (l *local) model(t *testing.T) Model {
	t.Helper()
	var m Model
	if err := json.Unmarshal(l.ask("GET", l.Path()+"model.json").Body.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWhoGetsSomething(t *testing.T) {
	l := newSite(t)
	for name, tc := range map[string]struct {
		method, path string
		headers      []string
		want         int
	}{
		"the page":                              {"GET", l.Path(), nil, 200},
		"the page by the name localhost":        {"GET", l.Path(), []string{"Host", "localhost:4321"}, 200},
		"the page from a terminal":              {"GET", l.Path(), []string{"Sec-Fetch-Site", "none"}, 200},
		"the page from another page":            {"GET", l.Path(), []string{"Sec-Fetch-Site", "cross-site"}, 200},
		"the style":                             {"GET", l.Path() + "page.css", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		"the script":                            {"GET", l.Path() + "page.js", nil, 200},
		"the model":                             {"GET", l.Path() + "model.json", nil, 200},
		"the model, asked for by another page":  {"GET", l.Path() + "model.json", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"the script, asked for by another port": {"GET", l.Path() + "page.js", []string{"Sec-Fetch-Site", "same-site"}, 403},
		"an object":                             {"GET", l.Path() + "yaml?id=M2MClient/shop/cart", nil, 200},
		"an object that does not exist":         {"GET", l.Path() + "yaml?id=M2MClient/shop/card", nil, 404},
		"a Secret":                              {"GET", l.Path() + "yaml?id=Secret/shop/cart-token", nil, 404},
		"a path that does not exist":            {"GET", l.Path() + "..%2fmodel.go", nil, 404},
		"a part of the page that it is made of": {"GET", l.Path() + "base.js", nil, 404},
		"nothing without the secret":            {"GET", "/", nil, 404},
		"nothing with another secret":           {"GET", "/" + strings.Repeat("A", len(l.Path())-2) + "/model.json", nil, 404},
		"nothing with a part of the secret":     {"GET", l.Path()[:20] + "/model.json", nil, 404},
		"nothing by another name":               {"GET", l.Path() + "model.json", []string{"Host", "evil.example:4321"}, 421},
		"nothing by another port":               {"GET", l.Path() + "model.json", []string{"Host", "127.0.0.1"}, 421},
		"nothing but reading":                   {"POST", l.Path() + "model.json", nil, 405},
		"no look at what would be allowed":      {"OPTIONS", l.Path() + "model.json", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "GET"}, 405},
	} {
		t.Run(name, func(t *testing.T) {
			l.model(t) // something was read before
			w := l.ask(tc.method, tc.path, tc.headers...)
			if w.Code != tc.want {
				t.Errorf("status %d, want %d: %s", w.Code, tc.want, w.Body)
			}
			for header, want := range map[string]string{
				"Access-Control-Allow-Origin": "", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
				"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
			} {
				if got := w.Header().Get(header); got != want {
					t.Errorf("%s is %q, want %q", header, got, want)
				}
			}
			if !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'none'; ") {
				t.Errorf("the policy is %q", w.Header().Get("Content-Security-Policy"))
			}
			if tc.want != 200 && (strings.Contains(w.Body.String(), "cart") || strings.Contains(w.Body.String(), l.Path())) {
				t.Errorf("it says too much: %s", w.Body)
			}
		})
	}
}

// TestOtherLoopback asks a site that listens on ::1.
func TestOtherLoopback(t *testing.T) {
	l := newSite(t)
	s, err := NewSite(t.Context(), &net.TCPAddr{IP: net.IPv6loopback, Port: 4321}, l.read, l.clock)
	if err != nil {
		t.Fatal(err)
	}
	l.Site = s
	for host, want := range map[string]int{"[::1]:4321": 200, "localhost:4321": 200, "127.0.0.1:4321": 421} {
		if w := l.ask("GET", l.Path(), "Host", host); w.Code != want {
			t.Errorf("%s: status %d, want %d", host, w.Code, want)
		}
	}
}

func TestSecretsDiffer(t *testing.T) {
	a, b := newSite(t), newSite(t)
	if a.Path() == b.Path() || len(a.Path()) != 45 {
		t.Errorf("the paths are %q and %q", a.Path(), b.Path())
	}
}

func TestPolicyOfTheSite(t *testing.T) {
	l := newSite(t)
	policy := l.ask("GET", l.Path()).Header().Get("Content-Security-Policy")
	for _, want := range []string{"connect-src 'self'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy lacks %q: %s", want, policy)
		}
	}
	for _, bad := range []string{"unsafe", "http:", "https:", "*"} {
		if strings.Contains(policy, bad) {
			t.Errorf("the policy has %q: %s", bad, policy)
		}
	}
}

// TestOneReadingForAll asks as ten pages do, at once and later.
func TestOneReadingForAll(t *testing.T) {
	l := newSite(t)
	var pages sync.WaitGroup
	for range 10 {
		pages.Go(func() { l.ask("GET", l.Path()+"model.json") })
	}
	pages.Wait()
	if got := l.reads.Load(); got != 1 {
		t.Errorf("ten pages read %d times", got)
	}
	l.clock.Step(Interval - time.Millisecond)
	l.model(t)
	if got := l.reads.Load(); got != 1 {
		t.Errorf("it was read again too early")
	}
	l.clock.Step(time.Millisecond)
	l.takes = 10 * time.Second
	l.model(t)
	l.clock.Step(39 * time.Second)
	l.model(t)
	if got := l.reads.Load(); got != 2 {
		t.Errorf("%d readings, want 2: a slow cluster is read less often", got)
	}
	l.clock.Step(time.Second)
	l.model(t)
	if got := l.reads.Load(); got != 3 {
		t.Errorf("%d readings, want 3", got)
	}
}

// TestTags asks again with the tag of the last answer, while nothing and then something changes.
func TestTags(t *testing.T) {
	l := newSite(t)
	first := l.ask("GET", l.Path()+"model.json")
	etag := first.Header().Get("ETag")
	again := func() *httptest.ResponseRecorder {
		l.clock.Step(Interval)
		return l.ask("GET", l.Path()+"model.json", "If-None-Match", etag)
	}
	if w := again(); w.Code != http.StatusNotModified || w.Body.Len() != 0 || l.reads.Load() != 2 {
		t.Errorf("status %d with %d bytes after %d readings", w.Code, w.Body.Len(), l.reads.Load())
	}
	l.company.Fails(l.company.Cart.Status.Conditions, true, "Fresh", "TokenExpired", "The token expired")
	w := again()
	if w.Code != http.StatusOK || w.Header().Get("ETag") == etag {
		t.Errorf("status %d, tag %s", w.Code, w.Header().Get("ETag"))
	}
	if m := l.model(t); find(t, &m, "M2MClient/shop/cart").State != tree.Failing {
		t.Error("the change is not there")
	}
}

// TestClusterGone goes on showing what was read when the cluster no longer answers.
func TestClusterGone(t *testing.T) {
	l := newSite(t)
	l.fails = errors.New("dial tcp: connection refused, " + token)
	if m := l.model(t); len(m.Objects) != 0 || !strings.Contains(m.Error, "connection refused") || strings.Contains(m.Error, "eyJ") {
		t.Errorf("the model is %+v", m)
	}
	l.fails = nil
	l.clock.Step(Interval)
	if m := l.model(t); len(m.Objects) != 12 || m.Error != "" || m.ReadAt != nil {
		t.Errorf("%d objects, error %q, read at %v", len(m.Objects), m.Error, m.ReadAt)
	}
	l.fails = errors.New("gone")
	l.clock.Step(Interval)
	if m := l.model(t); len(m.Objects) != 12 || m.Error != "gone" || !m.ReadAt.Time.Equal(noon.Add(Interval)) {
		t.Errorf("%d objects, error %q, read at %v", len(m.Objects), m.Error, m.ReadAt)
	}
}

// TestYAMLWaitsForNobody: while the cluster is read anew, an object of the last reading is shown.
func TestYAMLWaitsForNobody(t *testing.T) {
	clock := clocktesting.NewFakeClock(noon)
	inv := fleet.Inventory(fleet.NewCompany(noon).Objects()...)
	m, err := Build(t.Context(), inv, Options{Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	begun, end := make(chan struct{}), make(chan struct{})
	reads := 0
	s, err := NewSite(t.Context(), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4321}, func(context.Context) (Reading, error) {
		if reads++; reads == 2 {
			close(begun)
			<-end
		}
		return Reading{inv, m}, nil
	}, clock)
	if err != nil {
		t.Fatal(err)
	}
	l := &local{Site: s, clock: clock}
	l.ask("GET", s.Path()+"model.json")
	clock.Step(time.Hour)
	var all sync.WaitGroup
	all.Go(func() { l.ask("GET", s.Path()+"model.json") })
	<-begun
	answered := make(chan int, 1)
	go func() { answered <- l.ask("GET", s.Path()+"yaml?id="+url.QueryEscape(m.Objects[0].ID)).Code }()
	patience, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case code := <-answered:
		if code != http.StatusOK {
			t.Errorf("it is answered %d", code)
		}
	case <-patience.Done():
		t.Error("it waits for the reading")
	}
	close(end)
	all.Wait()
}

// TestCleanKnowsAllOfAModel: what clean does not go through cannot get into a model unnoticed.
func TestCleanKnowsAllOfAModel(t *testing.T) {
	for _, v := range []any{&struct{ M map[string]string }{}, &struct{ M any }{}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T is not cleaned, and nobody is told", v)
				}
			}()
			cleanValue(reflect.ValueOf(v).Elem())
		}()
	}
}
