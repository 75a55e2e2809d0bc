// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/oauth"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/logto"
	logtotest "github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

const (
	payment  = "https://payment.example.com/api"
	endpoint = "https://auth.example.com"
	sentinel = "S3ntinel"
)

var (
	apiOwner    = provision.Owner{Cluster: "c1", Kind: "APIResource", Namespace: "payments", Name: "payment-api", UID: "11111111-1111-4111-8111-111111111111"}
	clientOwner = provision.Owner{Cluster: "c1", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "22222222-2222-4222-8222-222222222222"}
	otherOwner  = provision.Owner{Cluster: "c2", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "33333333-3333-4333-8333-333333333333"}
)

func readWrite(identifier string) provision.API {
	return provision.API{Owner: apiOwner, Identifier: identifier, Scopes: []provision.Scope{{Name: "read"}, {Name: "write", Description: "Create and refund"}}}
}

func cart(scopes ...string) provision.Client {
	return provision.Client{Owner: clientOwner, Access: []provision.Access{{Resource: payment, Scopes: scopes}}}
}

// world is a Logto, a driver, and the states that a controller would keep.
type world struct {
	*testing.T
	server *logtotest.Server
	driver *logto.Driver
	now    time.Time

	api    provision.APIState
	client provision.ClientState
	// What outlives the process.
	keptAPI    provision.APIState
	keptClient provision.ClientState
}

func newWorld(t *testing.T, opts ...logtotest.Option) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	opts = append([]logtotest.Option{logtotest.WithEndpoint(endpoint), logtotest.WithSeed(7), logtotest.WithSecretPrefix(sentinel),
		logtotest.WithClock(func() time.Time { return w.now })}, opts...)
	server, err := logtotest.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	w.restart()
	t.Cleanup(func() {
		server.Close()
		if v := server.Violations(); len(v) > 0 {
			t.Errorf("violations: %q", v)
		}
	})
	return w
}

// kill ends the process: what was not kept is lost.
func (w *world) kill() {
	w.api, w.client = roundTrip(w.T, w.keptAPI), roundTrip(w.T, w.keptClient)
	w.restart()
}

// restart makes a new driver, which remembers nothing.
func (w *world) restart() {
	w.driver = logto.New(w.config())
}

func (w *world) config() logto.Config {
	return logto.Config{
		Endpoint: endpoint, ClientID: w.server.ManagementClientID(),
		ClientSecret: provision.Sensitive(w.server.ManagementClientSecret()),
		HTTP:         &http.Client{Transport: w.server.Transport()}, Now: func() time.Time { return w.now },
	}
}

func (w *world) keep(context.Context) error {
	w.keptAPI, w.keptClient = roundTrip(w.T, w.api), roundTrip(w.T, w.client)
	return nil
}

func roundTrip[S any](t *testing.T, state S) (kept S) {
	t.Helper()
	raw, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &kept); err != nil {
		t.Fatal(err)
	}
	return kept
}

func (w *world) syncAPI(want provision.API) ([]provision.Drift, error) {
	return w.driver.SyncAPI(w.Context(), want, &w.api, w.keep)
}

func (w *world) mustSyncAPI(want provision.API) []provision.Drift {
	w.Helper()
	drift, err := w.syncAPI(want)
	if err != nil {
		w.Fatal(err)
	}
	return drift
}

func (w *world) syncClient(want provision.Client) ([]provision.Drift, error) {
	drift, _, err := provision.SyncClient(w.Context(), w.driver, want, &w.client, provision.Rotation{}, w.keep, w.probe, w.now)
	return drift, err
}

func (w *world) mustSyncClient(want provision.Client) []provision.Drift {
	w.Helper()
	drift, err := w.syncClient(want)
	if err != nil {
		w.Fatal(err)
	}
	return drift
}

// probe asks for a token as the operator would.
func (w *world) probe(ctx context.Context, state *provision.ClientState, c *provision.Credential) error {
	_, err := w.token(ctx, state.Access, c)
	if err == nil {
		return nil
	}
	kind := provision.Refused
	var e *oauth.Error
	if errors.As(err, &e) && e.Class == oauth.ClassRetryable {
		kind = provision.Unavailable
	}
	return &provision.Error{Kind: kind, Message: "no token"}
}

func (w *world) token(ctx context.Context, access []provision.Access, c *provision.Credential) (*oauth.Token, error) {
	return oauth.Exchange(ctx, &http.Client{Transport: w.server.Transport()}, oauth.TokenRequest{
		Endpoint: w.server.TokenURL(), Authentication: oauth.ClientSecretBasic(c.ClientID, c.Secret.Reveal()),
		Resource: access[0].Resource, Scopes: access[0].Scopes, Now: w.now,
	})
}

// wantToken asks for a token with the current credential and compares its scopes.
func (w *world) wantToken(scopes ...string) {
	w.Helper()
	c := w.client.Current()
	if c == nil {
		w.Fatal("the client has no credential in use")
	}
	token, err := w.token(w.Context(), []provision.Access{{Resource: payment, Scopes: []string{"read", "refund", "write"}}}, c)
	if err != nil {
		w.Fatal(err)
	}
	got := slices.Sorted(slices.Values(token.Scopes))
	if !slices.Equal(got, scopes) {
		w.Errorf("the token has scopes %q, want %q", got, scopes)
	}
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

func drifts(sentences ...string) []provision.Drift {
	var all []provision.Drift
	for _, s := range sentences {
		all = append(all, provision.Drift(s))
	}
	return all
}

// onlyApplication returns the one application that there is.
func (w *world) onlyApplication() logtotest.Application {
	w.Helper()
	all := w.server.Snapshot().Applications
	if len(all) != 1 {
		w.Fatalf("%d applications, want 1", len(all))
	}
	return all[0]
}

func (w *world) onlyRole() logtotest.Role {
	w.Helper()
	all := w.server.Snapshot().Roles
	if len(all) != 1 {
		w.Fatalf("%d roles, want 1", len(all))
	}
	return all[0]
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
