// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

func marshal(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	return string(text)
}

func TestTheConsoleChangesWhatTheSnapshotShows(t *testing.T) {
	s, err := logto.New(logto.WithSeed(3))
	must(t, err)
	id := func(id string, err error) string {
		t.Helper()
		must(t, err)
		return id
	}
	if diff := cmp.Diff(logto.Snapshot{}, s.Snapshot()); diff != "" {
		t.Errorf("a new server is not empty:\n%s", diff)
	}
	const orders = "https://orders.example.com"
	api := id(s.CreateResource("Payments", payments, 60, "read"))
	id(s.CreateResource("Orders", orders, 0, "list"))
	write := id(s.AddScope(payments, "write", "Pay"))
	must(t, s.DescribeScope(payments, "write", "Pay and refund"))
	must(t, s.RemoveScope(payments, "read"))
	must(t, s.RenameResource(payments, "Pay"))
	must(t, s.SetResourceTTL(payments, 90))
	app := s.CreateApplication("cart", "the cart")
	must(t, s.RenameApplication(app, "cart2"))
	must(t, s.DescribeApplication(app, "the second"))
	must(t, s.SetCustomData(app, map[string]any{"a": "b"}))
	id(s.AddSecret(app, "more", time.Time{}))
	must(t, s.DeleteSecret(app, "Default secret"))
	role := id(s.CreateRole("role", "d"))
	must(t, s.RenameRole(role, "role2"))
	must(t, s.DescribeRole(role, "d2"))
	must(t, s.GrantScope(role, payments, "write"))
	must(t, s.GrantScope(role, orders, "list"))
	must(t, s.AssignRole(role, app))
	want := logto.Snapshot{
		Resources: []logto.Resource{s.Snapshot().Resources[0], {
			ID: api, Name: "Pay", Indicator: payments, AccessTokenTTL: 90,
			Scopes: []logto.Scope{{ID: write, Name: "write", Description: "Pay and refund"}},
		}},
		Applications: []logto.Application{{
			ID: app, Name: "cart2", Description: "the second", CustomData: map[string]any{"a": "b"},
			Secrets: []string{"more"}, Roles: []string{role},
		}},
		Roles: []logto.Role{{
			ID: role, Name: "role2", Type: "MachineToMachine", Description: "d2",
			Scopes: map[string][]string{payments: {"write"}, orders: {"list"}}, Applications: []string{app},
		}},
	}
	if diff := cmp.Diff(want, s.Snapshot()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	must(t, s.RevokeScope(role, orders, "list"))
	must(t, s.UnassignRole(role, app))
	must(t, s.ClearCustomData(app))
	must(t, s.DeleteResource(payments))
	got := s.Snapshot()
	if len(got.Resources) != 1 || got.Roles[0].Scopes != nil || got.Roles[0].Applications != nil ||
		got.Applications[0].Roles != nil || len(got.Applications[0].CustomData) != 0 {
		t.Errorf("got %+v", got)
	}
	must(t, s.DeleteResource(orders))
	must(t, s.DeleteApplication(app))
	must(t, s.DeleteRole(role))
	if diff := cmp.Diff(logto.Snapshot{}, s.Snapshot()); diff != "" {
		t.Errorf("not empty at the end:\n%s", diff)
	}
}

func TestTheConsoleSaysWhatItCannotDo(t *testing.T) {
	w := newWorld(t)
	second := func(_ string, err error) error { return err }
	for name, tc := range map[string]struct{ got, want error }{
		"resource exists":      {second(w.CreateResource("x", payments, 0)), logto.ErrExists},
		"scope exists":         {second(w.AddScope(payments, "payments:read", "")), logto.ErrExists},
		"secret exists":        {second(w.AddSecret(w.app, "Default secret", time.Time{})), logto.ErrExists},
		"role exists":          {second(w.CreateRole("cart", "")), logto.ErrExists},
		"no resource":          {w.RenameResource("https://x", "x"), logto.ErrNotFound},
		"the Management API":   {w.DeleteResource(logto.ManagementAPI), logto.ErrNotFound},
		"no scope":             {w.RemoveScope(payments, "x"), logto.ErrNotFound},
		"no application":       {w.DeleteApplication("x"), logto.ErrNotFound},
		"no secret":            {w.DeleteSecret(w.app, "x"), logto.ErrNotFound},
		"no role":              {w.DeleteRole("x"), logto.ErrNotFound},
		"no scope to grant":    {w.GrantScope(w.role, payments, "x"), logto.ErrNotFound},
		"nothing to assign to": {w.AssignRole(w.role, "x"), logto.ErrNotFound},
		"not assigned":         {w.UnassignRole(w.role, w.app), logto.ErrNotFound},
	} {
		if !errors.Is(tc.got, tc.want) {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
	if w.SecretValue(w.app, "x") != "" || w.SecretValue("x", "x") != "" {
		t.Error("an unknown secret has a value")
	}
}

func TestAnotherApplicationMayUseTheManagementAPI(t *testing.T) {
	w := newWorld(t)
	must(t, w.GrantManagementAPI(w.app))
	token := w.token(w.app, w.SecretValue(w.app, "Default secret"), "resource", logto.ManagementAPI, "scope", "all")
	w.bearer = token.member("access_token").(string)
	if got := w.do("GET", "/api/roles", nil); got.status != http.StatusOK {
		t.Errorf("got %d %s", got.status, got.raw)
	}
}

func TestTheSeedDecidesOnIdentifiersAndSecrets(t *testing.T) {
	build := func(seed uint64) (string, logto.Snapshot) {
		w := newWorld(t, logto.WithSeed(seed))
		return w.SecretValue(w.app, "Default secret"), w.Snapshot()
	}
	secret, snapshot := build(7)
	again, sameSnapshot := build(7)
	if diff := cmp.Diff(snapshot, sameSnapshot); diff != "" || secret != again {
		t.Errorf("the same seed makes something else:\n%s", diff)
	}
	if other, _ := build(8); other == secret {
		t.Error("another seed makes the same secret")
	}
}

func TestSecretsCanBeRecognised(t *testing.T) {
	w := newWorld(t, logto.WithSecretPrefix("sentinel"), logto.WithVersion("1.37"))
	if _, err := w.AddSecret(w.app, "second", time.Time{}); err != nil {
		t.Fatal(err)
	}
	must(t, w.DeleteSecret(w.app, "second"))
	secrets, tokens := 0, 0
	for _, value := range w.Sensitive() {
		switch {
		case strings.HasPrefix(value, "sentinel") && len(value) == 32:
			secrets++
		case value == w.bearer:
			tokens++
		}
	}
	// Two applications with the secret in their body and their default secret, and the deleted one.
	if secrets != 5 || tokens != 1 {
		t.Errorf("%d secrets and %d tokens, want 5 and 1", secrets, tokens)
	}
	if got := w.do("GET", w.at("applications", w.app), nil).member("secret"); !strings.HasPrefix(got.(string), "sentinel") {
		t.Error("the secret in the application's body has no prefix")
	}
}

func TestBasicCredentialsAreFormEncoded(t *testing.T) {
	w, secret := newGranted(t, logto.WithSecretPrefix("a+b%:/"))
	if got := w.token(w.app, secret, "resource", payments); got.status != http.StatusOK {
		t.Errorf("encoded: %d %s", got.status, got.raw)
	}
	r := w.request("POST", "/oidc/token", form("resource", payments).Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(w.app, secret)
	if got, err := w.send(r); err != nil || got.status != http.StatusBadRequest || got.member("error") != "invalid_request" {
		t.Errorf("not encoded: %d %s %v", got.status, got.raw, err)
	}
}

func TestNoVersionButOnePoint(t *testing.T) {
	for _, version := range []string{"", "2.0", "1.x"} {
		if _, err := logto.New(logto.WithVersion(version)); err == nil {
			t.Errorf("version %q is taken", version)
		}
	}
}

func TestTheTransportReachesNothingElse(t *testing.T) {
	w := newWorld(t)
	w.ResetRequests()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://elsewhere.example.com/oidc/jwks", nil)
	must(t, err)
	if got, err := w.send(r); err == nil || w.Count() != 0 {
		t.Errorf("it answers %d", got.status)
	}
}

func TestItListens(t *testing.T) {
	for name, opts := range map[string][]logto.Option{"https": nil, "http": {logto.WithHTTP()}} {
		t.Run(name, func(t *testing.T) {
			s, err := logto.Start(opts...)
			must(t, err)
			t.Cleanup(s.Close)
			transport := &http.Transport{}
			if name == "https" {
				roots := x509.NewCertPool()
				if !roots.AppendCertsFromPEM(s.CAPEM()) {
					t.Fatal("no CA")
				}
				transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
			}
			t.Cleanup(transport.CloseIdleConnections)
			f := &fixture{Server: s, t: t, client: &http.Client{Transport: transport}}
			f.logIn()
			if got := f.do("GET", "/api/roles", nil); got.status != http.StatusOK || !strings.HasPrefix(s.Endpoint(), name+"://127.0.0.1:") {
				t.Errorf("%s: %d %s", s.Endpoint(), got.status, got.raw)
			}
			if got := f.do("GET", "/oidc/.well-known/openid-configuration", nil).member("token_endpoint"); got != s.TokenURL() {
				t.Errorf("token_endpoint %v, want %s", got, s.TokenURL())
			}
			s.SetFault(always(logto.Fault{Drop: true}))
			if got, err := f.send(f.request("GET", "/api/roles", "")); err == nil {
				t.Errorf("a dropped connection answers %d", got.status)
			}
		})
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	if logto.IdleTimeout != 5*time.Second {
		t.Errorf("idle timeout %s, want 5s", logto.IdleTimeout)
	}
	s, err := logto.Start(logto.WithHTTP(), logto.WithIdleTimeout(20*time.Millisecond))
	must(t, err)
	t.Cleanup(s.Close)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.Endpoint(), "http://"))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(conn, "GET /oidc/jwks HTTP/1.1\r\nHost: logto\r\n\r\n")
	must(t, err)
	answer, err := io.ReadAll(conn) // until the server closes it
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") {
		t.Errorf("error %v after %q", err, answer)
	}
}
