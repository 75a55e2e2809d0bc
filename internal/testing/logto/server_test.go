// SPDX-License-Identifier: Apache-2.0

package logto_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/testing/logto"
)

const payments = "https://payment.example.com/api"

// clock starts at a fixed time and moves only when a test moves it.
type clock struct{ at time.Time }

func newClock() *clock                   { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }
func (c *clock) now() time.Time          { return c.at }
func (c *clock) advance(d time.Duration) { c.at = c.at.Add(d) }

// fixture is a server with a client for it.
type fixture struct {
	*logto.Server
	t      *testing.T
	clock  *clock
	client *http.Client
	bearer string
}

func setUp(t *testing.T, opts ...logto.Option) *fixture {
	t.Helper()
	f := &fixture{t: t, clock: newClock()}
	var err error
	f.Server, err = logto.New(append([]logto.Option{logto.WithClock(f.clock.now), logto.WithSeed(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	f.client = &http.Client{Transport: f.Transport()}
	f.logIn()
	return f
}

// logIn gets a fresh token for the Management API.
func (f *fixture) logIn() {
	f.t.Helper()
	f.bearer = ""
	got := f.token(f.ManagementClientID(), f.ManagementClientSecret(), "resource", logto.ManagementAPI, "scope", "all")
	f.bearer, _ = got.member("access_token").(string)
	if f.bearer == "" {
		f.t.Fatalf("no token for the Management API: %d %s", got.status, got.raw)
	}
}

type result struct {
	status int
	header http.Header
	raw    string
}

func (r result) object() (members map[string]any) {
	_ = json.Unmarshal([]byte(r.raw), &members)
	return members
}

func (r result) member(name string) any { return r.object()[name] }

func (r result) id() string {
	id, _ := r.member("id").(string)
	return id
}

func (r result) code() string {
	code, _ := r.member("code").(string)
	return code
}

func (r result) list() (items []map[string]any) {
	_ = json.Unmarshal([]byte(r.raw), &items)
	return items
}

func (f *fixture) send(r *http.Request) (result, error) {
	response, err := f.client.Do(r)
	if err != nil {
		return result{}, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	return result{response.StatusCode, response.Header, string(raw)}, err
}

func (f *fixture) request(method, path, body string) *http.Request {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.Endpoint()+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if f.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+f.bearer)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// do sends a request to the Management API; body is marshalled unless it is a string.
func (f *fixture) do(method, path string, body any) result {
	f.t.Helper()
	text, ok := body.(string)
	if !ok && body != nil {
		marshalled := &bytes.Buffer{}
		if err := json.NewEncoder(marshalled).Encode(body); err != nil {
			f.t.Fatal(err)
		}
		text = marshalled.String()
	}
	got, err := f.send(f.request(method, path, text))
	if err != nil {
		f.t.Fatal(err)
	}
	return got
}

// form returns the parameters of a token request, with pairs added to them.
func form(pairs ...string) url.Values {
	v := url.Values{"grant_type": {"client_credentials"}}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// token asks the token endpoint for a token. It sends the id and secret in HTTP Basic, unless
// the id is empty.
func (f *fixture) token(id, secret string, pairs ...string) result {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.TokenURL(), strings.NewReader(form(pairs...).Encode()))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if id != "" {
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	}
	got, err := f.send(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return got
}

func (f *fixture) wantNoViolations() {
	f.t.Helper()
	if v := f.Violations(); len(v) > 0 {
		f.t.Errorf("violations: %q", v)
	}
}

// must fails the test on the error of a console's method.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type object = map[string]any

func TestAnApplicationIsProvisionedFromEndToEnd(t *testing.T) {
	f := setUp(t)
	api := f.do("POST", "/api/resources", object{"name": "Payments", "indicator": payments, "accessTokenTtl": 900})
	write := f.do("POST", "/api/resources/"+api.id()+"/scopes", object{"name": "payments:write", "description": "Pay"})
	app := f.do("POST", "/api/applications", object{"name": "cart", "type": "MachineToMachine"})
	role := f.do("POST", "/api/roles", object{"name": "cart", "description": "cart", "type": "MachineToMachine"})
	for path, body := range map[string]object{
		"/api/roles/" + role.id() + "/scopes":       {"scopeIds": []string{write.id()}},
		"/api/roles/" + role.id() + "/applications": {"applicationIds": []string{app.id()}},
	} {
		if got := f.do("POST", path, body); got.status != http.StatusCreated {
			t.Fatalf("POST %s: %d %s", path, got.status, got.raw)
		}
	}
	got := f.token(app.id(), f.SecretValue(app.id(), "Default secret"), "resource", payments, "scope", "payments:write")
	if got.status != http.StatusOK || got.member("scope") != "payments:write" || got.member("expires_in") != 900.0 {
		t.Errorf("token: %d %s", got.status, got.raw)
	}
	f.wantNoViolations()
}
