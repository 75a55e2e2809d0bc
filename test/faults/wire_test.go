// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// served is a server that counts what it executes.
type served struct {
	url      string
	executed atomic.Int32
}

func serve(t *testing.T) *served {
	t.Helper()
	s := &served{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.executed.Add(1)
		_, _ = io.WriteString(w, strings.Repeat("answer ", 10))
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func send(t *testing.T, over http.RoundTripper, method, url string) (status int, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := over.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.ReadAll(resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

const secretPath = "/api/v1/namespaces/shop/secrets/cart-token"

// TestEachFault sends the chosen request, and then another one.
func TestEachFault(t *testing.T) {
	for fault, want := range map[Fault]struct {
		status   int // 0: an error
		executed int32
		killed   bool
	}{
		KillBefore: {killed: true}, KillAfter: {executed: 1, killed: true},
		Conflict: {status: 409}, TooMany: {status: 429}, ServerError: {status: 500}, Unavailable: {status: 503},
		TimeOut: {}, CutBody: {executed: 1}, LoseAnswer: {executed: 1}, Slow: {status: 200, executed: 1},
	} {
		t.Run(string(fault), func(t *testing.T) {
			s, w := serve(t), &Wire{}
			life := w.Live()
			over := w.Through(APIServer, http.DefaultTransport)
			w.Break(Call{APIServer, http.MethodPut, "secrets shop/cart-token", 2}, fault)
			if status, err := send(t, over, http.MethodPut, s.url+secretPath); status != http.StatusOK || err != nil {
				t.Fatalf("the first request got %d, %v", status, err)
			}
			if w.Met() {
				t.Error("the first request met the fault of the second")
			}
			s.executed.Store(0)
			status, err := send(t, over, http.MethodPut, s.url+secretPath)
			if want.status == 0 && err == nil || want.status != 0 && status != want.status {
				t.Errorf("it got %d, %v, want %d", status, err, want.status)
			}
			if n := s.executed.Load(); n != want.executed {
				t.Errorf("the server executed it %d times, want %d", n, want.executed)
			}
			if killed := life.Err() != nil; killed != want.killed || !w.Met() {
				t.Errorf("killed: %t, met: %t", killed, w.Met())
			}
			_, err = send(t, over, http.MethodGet, s.url+secretPath)
			if want.killed != errors.Is(err, errKilled) {
				t.Errorf("the request after it got the error %v", err)
			}
			w.Live()
			if _, err := send(t, w.Through(APIServer, http.DefaultTransport), http.MethodGet, s.url+secretPath); err != nil {
				t.Errorf("a fresh operator's request got %v", err)
			}
			if _, err := send(t, over, http.MethodGet, s.url+secretPath); want.killed && err == nil {
				t.Error("the killed operator's late request was sent")
			}
		})
	}
}

// TestCalls names requests, and leaves out those of caches.
func TestCalls(t *testing.T) {
	s, w := serve(t), &Wire{Rename: strings.NewReplacer("shop-7", "shop").Replace}
	w.Live()
	api, auth := w.Through(APIServer, http.DefaultTransport), w.Through(AuthorizationServer, http.DefaultTransport)
	for _, r := range []struct {
		over         http.RoundTripper
		method, path string
	}{
		{api, http.MethodPatch, "/apis/m2m-operator.io/v1alpha1/namespaces/shop-7/m2mclients/cart/status?fieldManager=x"},
		{api, http.MethodPost, "/api/v1/namespaces/shop-7/secrets"},
		{api, http.MethodPost, "/api/v1/namespaces/shop-7/secrets"},
		{api, http.MethodGet, "/api/v1/secrets?limit=500&resourceVersion=0"},
		{api, http.MethodGet, "/api/v1/secrets?watch=true"},
		{api, http.MethodGet, "/apis/m2m-operator.io/v1alpha1"},
		{api, http.MethodPost, "/apis/events.k8s.io/v1/namespaces/shop-7/events"},
		{auth, http.MethodPost, "/token"},
	} {
		if _, err := send(t, r.over, r.method, s.url+r.path); err != nil {
			t.Fatal(err)
		}
	}
	want := []Call{
		{APIServer, http.MethodPatch, "m2mclients/status shop/cart", 1}, {APIServer, http.MethodPost, "secrets shop", 1},
		{APIServer, http.MethodPost, "secrets shop", 2}, {AuthorizationServer, http.MethodPost, "token", 1},
	}
	if diff := cmp.Diff(want, w.Calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if n := w.Writes(); n != 3 {
		t.Errorf("%d writes of the API server, want 3", n)
	}
}

// TestProxy: behind a proxy, a lost answer breaks the caller's connection, and a request that times out waits
// as long as the caller.
func TestProxy(t *testing.T) {
	s, w := serve(t), &Wire{}
	to, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	p, listener, err := NewProxy()
	if err != nil {
		t.Fatal(err)
	}
	w.Live()
	p.Serve(listener, to, w.Through(AuthorizationServer, http.DefaultTransport))
	defer p.Close()
	hc := &http.Client{Timeout: 200 * time.Millisecond}
	post := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+"/token", strings.NewReader("grant_type=client_credentials"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := hc.Do(req)
		if err != nil {
			return err
		}
		_, err = io.ReadAll(resp.Body)
		return errors.Join(err, resp.Body.Close())
	}
	if err := post(); err != nil {
		t.Fatal(err)
	}
	for n, fault := range []Fault{LoseAnswer, TimeOut, CutBody} {
		w.Break(Call{AuthorizationServer, http.MethodPost, "token", n + 2}, fault)
		err := post()
		var u *url.Error
		if err == nil || !w.Met() || errors.As(err, &u) && u.Timeout() != (fault == TimeOut) {
			t.Errorf("%s: the caller got %v", fault, err)
		}
	}
	if n := s.executed.Load(); n != 3 {
		t.Errorf("the server executed %d requests, want all but the one that timed out", n)
	}
}

// TestHold keeps what a watch reports until it is let go.
func TestHold(t *testing.T) {
	s, w := serve(t), &Wire{}
	w.Live()
	letGo := w.Hold("secrets")
	done := make(chan error, 1)
	go func() {
		_, err := send(t, w.Through(APIServer, http.DefaultTransport), http.MethodGet, s.url+"/api/v1/secrets?watch=true")
		done <- err
	}()
	if _, err := send(t, w.Through(APIServer, http.DefaultTransport), http.MethodGet, s.url+"/api/v1/configmaps?watch=true"); err != nil {
		t.Fatalf("the watch of another kind: %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("the watch was not held back: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	letGo()
	if err := <-done; err != nil {
		t.Errorf("after it was let go: %v", err)
	}
}
