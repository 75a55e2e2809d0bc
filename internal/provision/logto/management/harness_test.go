// SPDX-License-Identifier: Apache-2.0

package management_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto/management"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

const (
	endpoint = "https://auth.example.com"
	sentinel = "S3ntinel"
)

// world is a Logto, and its Management API.
type world struct {
	*testing.T
	server *logtotest.Server
	api    *management.API
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	server, err := logtotest.New(logtotest.WithEndpoint(endpoint), logtotest.WithSeed(7), logtotest.WithSecretPrefix(sentinel),
		logtotest.WithClock(func() time.Time { return w.now }))
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	w.api = management.New(w.config())
	t.Cleanup(func() {
		server.Close()
		if v := server.Violations(); len(v) > 0 {
			t.Errorf("violations: %q", v)
		}
	})
	return w
}

func (w *world) config() management.Config {
	return management.Config{
		Endpoint: endpoint, ClientID: w.server.ManagementClientID(),
		ClientSecret: provision.Sensitive(w.server.ManagementClientSecret()),
		HTTP:         &http.Client{Transport: w.server.Transport()}, Now: func() time.Time { return w.now },
	}
}

type application struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (a application) Key() string { return a.ID }

// read makes the smallest request there is.
func read(ctx context.Context, a *management.API) error {
	return a.Call(ctx, management.Request{Doing: "read the applications", Method: http.MethodGet, Path: "/applications",
		Query: url.Values{"page": {"1"}, "page_size": {"1"}}}, new([]application))
}

// wantError compares an error's kind, and looks for what must not be in it.
func (w *world) wantError(err error, kind provision.ErrorKind, words ...string) {
	w.Helper()
	var e *provision.Error
	if !errors.As(err, &e) || e.Kind != kind {
		w.Fatalf("got error %v of kind %q, want kind %s", err, provision.KindOf(err), kind)
	}
	for _, word := range words {
		if !strings.Contains(e.Message, word) {
			w.Errorf("error %q does not say %q", e.Message, word)
		}
	}
	if all, _ := json.Marshal(e); strings.Contains(string(all), sentinel) {
		w.Errorf("error has a secret in it: %s", all)
	}
}

// fault makes the requests of a method whose path ends so fail, the first times of them.
func (w *world) fault(method, suffix string, times int, f logtotest.Fault) {
	w.server.SetFault(func(r *http.Request, _ int) logtotest.Fault {
		if r.Method != method || !strings.HasSuffix(r.URL.Path, suffix) || times == 0 {
			return logtotest.Fault{}
		}
		times--
		return f
	})
}
