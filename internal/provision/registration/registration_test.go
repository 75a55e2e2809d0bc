// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
)

const (
	endpoint = "https://as.example.com/reg"
	uri      = "https://as.example.com/reg/client-1"
)

var (
	noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	cart = provision.Owner{Cluster: "c1", Kind: "M2MClient", Namespace: "shop", Name: "cart", UID: "uid-1"}
	name = cart.DisplayName() + " 1"
)

// script is a server that gives prepared answers, one after the other, and records what it was asked.
type script struct {
	t       *testing.T
	answers []reply
	asked   []string // "POST https://… Bearer …"
	bodies  []string
}

// reply is an answer; MARK in its body stands for the client's name.
type reply struct {
	status int
	body   string
	header map[string]string
	err    error
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization")))
	body := ""
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		body = string(b)
	}
	s.bodies = append(s.bodies, body)
	if sent := r.Header.Get("Content-Type"); (sent == "application/json") != (body != "") {
		s.t.Errorf("%s has a body of %d bytes and Content-Type %q", s.asked[len(s.asked)-1], len(body), sent)
	}
	if len(s.answers) == 0 {
		s.t.Errorf("an unexpected request: %s", s.asked[len(s.asked)-1])
		return nil, io.EOF
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	if a.err != nil {
		return nil, a.err
	}
	h := http.Header{}
	for k, v := range a.header {
		h.Set(k, v)
	}
	return &http.Response{
		StatusCode: a.status, Header: h, Request: r, Body: io.NopCloser(strings.NewReader(strings.ReplaceAll(a.body, "MARK", name))),
	}, nil
}

func scripted(t *testing.T, answers ...reply) (*registration.Driver, *script) {
	t.Helper()
	s := &script{t: t, answers: answers}
	d := registration.New(registration.Config{
		Endpoint: endpoint, InitialAccessToken: "initial-hush", HTTP: &http.Client{Transport: s}, Now: func() time.Time { return noon },
	})
	t.Cleanup(func() {
		if len(s.answers) > 0 {
			t.Errorf("%d answers were not asked for", len(s.answers))
		}
	})
	return d, s
}

func kept(context.Context) error { return nil }

func wants(scopes ...string) provision.Client {
	return provision.Client{Owner: cart, Access: []provision.Access{access(payment, scopes...)}}
}

func named(n string) string { return cart.CredentialPrefix() + n }

// wantError fails unless err is an *Error of these fields, and without a secret.
func wantError(t *testing.T, err error, want *provision.Error) {
	t.Helper()
	var got *provision.Error
	if !errors.As(err, &got) {
		t.Fatalf("got the error %v, want %v", err, want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("a secret is in %q", err)
	}
}

func TestIssue(t *testing.T) {
	d, s := scripted(t, reply{status: 201, body: `{"client_id":"client-1","client_secret":"s 1","client_secret_expires_at":1772452800,
		"registration_access_token":"rat-1","registration_client_uri":"` + uri + `","scope":"write read more","unknown":[1]}`})
	state := &provision.ClientState{Credentials: []provision.Credential{{Name: named("1"), Stage: provision.Issuing}}}
	want := provision.Client{Owner: cart, Access: []provision.Access{
		{Resource: payment, ResourceID: "kept by nobody", Scopes: []string{"read", "write"}}, access(shipping, "read"),
	}}
	if err := d.Issue(t.Context(), want, state, &state.Credentials[0]); err != nil {
		t.Fatal(err)
	}
	wantState := &provision.ClientState{
		Origin: provision.Created, Access: []provision.Access{access(payment, "read", "write"), access(shipping, "read")},
		Credentials: []provision.Credential{{
			Name: named("1"), Stage: provision.Issuing, ClientID: "client-1", Secret: "s 1",
			ExpiresAt: time.Date(2026, time.March, 2, 12, 0, 0, 0, time.UTC), RegistrationURI: uri, RegistrationToken: "rat-1",
		}},
	}
	if diff := cmp.Diff(wantState, state); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"POST " + endpoint + " Bearer initial-hush"}, s.asked); diff != "" {
		t.Error(diff)
	}
	wantBody := `{"client_name":"` + name + `","grant_types":["client_credentials"],"response_types":[],"scope":"read write",` +
		`"token_endpoint_auth_method":"client_secret_basic"}`
	if diff := cmp.Diff(wantBody, s.bodies[0]); diff != "" {
		t.Error(diff)
	}
}

func TestAccessAfterIssue(t *testing.T) {
	const managed = `,"registration_access_token":"rat","registration_client_uri":"` + uri + `"`
	two := []provision.Access{access(payment, "read"), access("https://none.example.com"), access(shipping, "track")}
	for name, tc := range map[string]struct {
		answer string
		wants  []provision.Access // default: rw
		older  int                // credentials that there are besides
		before []provision.Access
		want   []provision.Access
	}{
		"the server says nothing of scopes":                       {answer: managed, want: rw},
		"the server registers less":                               {answer: managed + `,"scope":"write"`, want: []provision.Access{access(payment, "write")}},
		"the server registers none of them":                       {answer: managed + `,"scope":"openid"`},
		"the server registers less, and that cannot be asked for": {answer: `,"scope":"write"`, want: rw},
		"the server registers nothing of the first API":           {answer: managed + `,"scope":"track"`, wants: two, want: two[1:]},
		"another first credential after the only one was lost":    {answer: managed, before: []provision.Access{access(shipping, "track")}, want: rw},
		"a second credential, after the first got less":           {answer: managed, older: 1, before: []provision.Access{access(payment, "read")}, want: []provision.Access{access(payment, "read")}},
		"a second credential, after the first got nothing":        {answer: managed, older: 1, want: rw},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := scripted(t, reply{status: 200, body: `{"client_id":"client-1","client_secret":"s"` + tc.answer + `}`})
			state := &provision.ClientState{Access: tc.before, Credentials: []provision.Credential{{Name: named("1"), Stage: provision.Issuing}}}
			for range tc.older {
				state.Credentials = append(state.Credentials, has(provision.Current, second))
			}
			if tc.wants == nil {
				tc.wants = rw
			}
			if err := d.Issue(t.Context(), provision.Client{Owner: cart, Access: tc.wants}, state, &state.Credentials[0]); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, state.Access); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// RFC 7591 gives a client that names no scopes the server's default ones, as it does one that names an empty list.
func TestIssueWithoutScopes(t *testing.T) {
	d, s := scripted(t, reply{status: 201, body: `{"client_id":"c","client_secret":"s"}`})
	if err := d.Issue(t.Context(), wants(), &provision.ClientState{}, &provision.Credential{Name: named("1")}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.bodies[0], "scope") {
		t.Errorf("it is registered with %s", s.bodies[0])
	}
}

// Each part of an answer is taken up to its bound. Beyond it there is no client, or none that can be managed.
func TestBoundsOfAnAnswer(t *testing.T) {
	const under = "https://as.example.com/reg/"
	of := func(n int) string { return strings.Repeat("~", n) }
	for name, tc := range map[string]struct {
		id, secret, token, uri string
		malformed              bool
		want                   provision.Credential
	}{
		"all at their bounds": {
			id: of(1024), secret: of(4096), token: of(4096), uri: under + of(2048-len(under)),
			want: provision.Credential{ClientID: of(1024), Secret: provision.Sensitive(of(4096)), RegistrationToken: provision.Sensitive(of(4096)), RegistrationURI: under + of(2048-len(under))},
		},
		"an ID that is too long":    {id: of(1025), secret: "s", malformed: true},
		"a secret that is too long": {id: "c", secret: of(4097), malformed: true},
		"a token that is too long":  {id: "c", secret: "s", token: of(4097), want: provision.Credential{ClientID: "c", Secret: "s"}},
		"a token with a space":      {id: "c", secret: "s", token: "a b", want: provision.Credential{ClientID: "c", Secret: "s"}},
		"an address that is too long": {
			id: "c", secret: "s", uri: under + of(2049-len(under)), want: provision.Credential{ClientID: "c", Secret: "s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := scripted(t, reply{status: 201, body: `{"client_id":"` + tc.id + `","client_secret":"` + tc.secret +
				`","registration_access_token":"` + tc.token + `","registration_client_uri":"` + tc.uri + `"}`})
			got := provision.Credential{}
			if err := d.Issue(t.Context(), wants("read"), &provision.ClientState{}, &got); (err != nil) != tc.malformed {
				t.Error(err)
			}
			if got != tc.want {
				t.Errorf("got an ID of %d bytes, a secret of %d, a token of %d, an address of %d",
					len(got.ClientID), len(got.Secret), len(got.RegistrationToken), len(got.RegistrationURI))
			}
		})
	}
}

func TestRegistrationURIsThatAreNotUsed(t *testing.T) {
	for name, tc := range map[string]struct {
		uri  string
		used bool
	}{
		"below the endpoint":      {"https://as.example.com/reg/1?x=y", true},
		"deep below the endpoint": {"https://as.example.com/reg/clients/1", true},
		"an ID with a slash":      {"https://as.example.com/reg/shop%2Fcart", true},
		"an ID with dots":         {"https://as.example.com/reg/..1..%2F...", true},
		// Spring Authorization Server and ForgeRock name the client in the query.
		"the endpoint, and a query":          {"https://as.example.com/reg?client_id=1", true},
		"the endpoint":                       {"https://as.example.com/reg", true},
		"another path":                       {"https://as.example.com/admin/users/1", false},
		"a path with the same beginning":     {"https://as.example.com/regulars/1", false},
		"the path in other case":             {"https://as.example.com/REG/1", false},
		"the path behind another":            {"https://as.example.com/admin/reg/1", false},
		"a doubled slash":                    {"https://as.example.com//reg/1", false},
		"no path":                            {"https://as.example.com", false},
		"out of the path":                    {"https://as.example.com/reg/../admin/users/1", false},
		"out of the path, encoded":           {"https://as.example.com/reg/%2e%2E/admin/users/1", false},
		"out of the path, encoded slash":     {"https://as.example.com/reg/..%2fadmin/users/1", false},
		"out of the path, encoded twice":     {"https://as.example.com/reg/%252e%252e/admin/users/1", false},
		"out of the path, encoded too often": {"https://as.example.com/reg/%25252525252e%25252525252e/admin", false},
		"out of the path, for Tomcat":        {"https://as.example.com/reg/..;x/admin/users/1", false},
		"out of the path, backslash":         {"https://as.example.com/reg/..%5Cadmin/users/1", false},
		"out of the path at its end":         {"https://as.example.com/reg/1/..", false},
		"to the path itself":                 {"https://as.example.com/reg/./1", false},
		"a control character":                {"https://as.example.com/reg/1%0d%0aX:y", false},
		"with the default port":              {"https://AS.example.com:443/reg/1", true},
		"at another host":                    {"https://evil.example.com/reg/1", false},
		"at another port":                    {"https://as.example.com:8443/reg/1", false},
		"in plain text":                      {"http://as.example.com/reg/1", false},
		"at the metadata service":            {"http://169.254.169.254/latest", false},
		"of another scheme":                  {"file:///etc/passwd", false},
		"relative":                           {"/reg/1", false},
		"with a user":                        {"https://as.example.com@evil.example.com/", false},
		"with a user at the host":            {"https://me:pw@as.example.com/reg/1", false},
		"with a fragment":                    {"https://as.example.com/reg/1#x", false},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := scripted(t, reply{status: 201, body: `{"client_id":"c","client_secret":"s","registration_access_token":"r","registration_client_uri":"` + tc.uri + `"}`})
			c := &provision.Credential{Name: named("1"), Stage: provision.Issuing}
			if err := d.Issue(t.Context(), wants("read"), &provision.ClientState{}, c); err != nil {
				t.Fatal(err)
			}
			if used := c.RegistrationURI == tc.uri; used != tc.used {
				t.Errorf("the URI is used: %t", used)
			}
		})
	}
}

// A recorded URI is checked before each use: one that an earlier version accepted, or that somebody wrote into the
// state, gets neither a request nor the token.
func TestKeptRegistrationURIsAreJudgedAgain(t *testing.T) {
	for _, uri := range []string{"https://as.example.com/admin/users/1", "https://as.example.com/reg/../admin", "https://evil.example.com/reg/1"} {
		d, s := scripted(t)
		state := &provision.ClientState{ID: "client-1", Access: wants("read").Access, Credentials: []provision.Credential{{
			Name: named("1"), Stage: provision.Current, ClientID: "client-1", Secret: "s", RegistrationURI: uri, RegistrationToken: "rat-hush",
		}}}
		if _, err := d.SyncClient(t.Context(), wants("read"), state, kept); err != nil {
			t.Errorf("%s: SyncClient() = %v", uri, err)
		}
		if err := d.RemoveClient(t.Context(), wants("read"), state, kept); err != nil {
			t.Errorf("%s: RemoveClient() = %v", uri, err)
		}
		if len(s.asked) > 0 {
			t.Errorf("%s: it was asked: %q", uri, s.asked)
		}
		if len(state.LeftBehind) != 1 || !strings.Contains(state.LeftBehind[0], "does not allow deleting it") {
			t.Errorf("%s: what is left behind is %q", uri, state.LeftBehind)
		}
	}
}

func TestIssueFails(t *testing.T) {
	senseless := &provision.Error{Kind: provision.Unavailable, Status: 201, Message: "the server's answer is not a valid registration"}
	incomplete := &provision.Error{Kind: provision.Unavailable, Message: "the registration endpoint gave no complete answer: connection failed"}
	for name, tc := range map[string]struct {
		answer reply
		want   *provision.Error
	}{
		"metadata that the server does not take": {
			reply{status: 400, body: `{"error":"invalid_client_metadata","error_description":"initial-hush"}`},
			&provision.Error{Kind: provision.Refused, Status: 400, Code: "invalid_client_metadata", Message: "the server refused to register the client (invalid_client_metadata): [redacted]"},
		},
		"metadata that the server does not take, and why": {
			reply{status: 400, body: `{"error":"invalid_client_metadata","error_description":"The field \"redirect_uris\" is required,\nnot initial-hush"}`},
			&provision.Error{Kind: provision.Refused, Status: 400, Code: "invalid_client_metadata", Message: `the server refused to register the client (invalid_client_metadata): The field "redirect_uris" is required, not [redacted]`},
		},
		"a description that is no text": {
			reply{status: 400, body: `{"error":"invalid_client_metadata","error_description":{"en":"initial-hush"}}`},
			&provision.Error{Kind: provision.Refused, Status: 400, Code: "invalid_client_metadata", Message: "the server refused to register the client (invalid_client_metadata)"},
		},
		"a code with the token in it": {
			reply{status: 400, body: `{"error":"initial"}`},
			&provision.Error{Kind: provision.Refused, Status: 400, Message: "the server refused to register the client"},
		},
		"a code that is none": {
			reply{status: 422, body: `{"error":"no\nway <b>"}`},
			&provision.Error{Kind: provision.Refused, Status: 422, Message: "the server refused to register the client"},
		},
		"a wrong initial access token": {
			reply{status: 401, body: `{"error":"invalid_token"}`},
			&provision.Error{Kind: provision.Refused, Status: 401, Code: "invalid_token", Message: "the initial access token was not accepted (invalid_token)"},
		},
		"a right that is missing": {
			reply{status: 403, body: `no`},
			&provision.Error{Kind: provision.Refused, Status: 403, Message: "the server does not allow registering the client; check the initial access token"},
		},
		"another address": {
			reply{status: 404, body: `<html>`},
			&provision.Error{Kind: provision.Refused, Status: 404, Message: "the registration endpoint does not register clients"},
		},
		"a redirect": {
			reply{status: 307, header: map[string]string{"Location": "https://evil.example.com"}},
			&provision.Error{Kind: provision.Refused, Status: 307, Message: "the registration endpoint answered with a redirect, which is not followed"},
		},
		"too many requests": {
			reply{status: 429, header: map[string]string{"Retry-After": "17"}},
			&provision.Error{Kind: provision.Unavailable, Status: 429, RetryAfter: 17 * time.Second, Message: "the server did not register the client: it answered with status 429"},
		},
		"a server that says when": {
			reply{status: 202, header: map[string]string{"Retry-After": "17"}},
			&provision.Error{Kind: provision.Unavailable, Status: 202, RetryAfter: 17 * time.Second, Message: "the server's answer is not a valid registration"},
		},
		"a server that is down until a date": {
			reply{status: 503, header: map[string]string{"Retry-After": noon.Add(time.Minute).Format(http.TimeFormat)}},
			&provision.Error{Kind: provision.Unavailable, Status: 503, RetryAfter: time.Minute, Message: "the server did not register the client: it answered with status 503"},
		},
		"a server that wants to be left alone": {
			reply{status: 503, header: map[string]string{"Retry-After": "99999999999"}},
			&provision.Error{Kind: provision.Unavailable, Status: 503, RetryAfter: time.Hour, Message: "the server did not register the client: it answered with status 503"},
		},
		"a server that is down and says so at length": {
			reply{status: 503, body: strings.Repeat(" ", egress.MaxBody+1), header: map[string]string{"Retry-After": "17"}},
			&provision.Error{Kind: provision.Unavailable, Status: 503, RetryAfter: 17 * time.Second, Message: "the server did not register the client: it answered with status 503"},
		},
		"a refusal until later": {
			reply{status: 403, header: map[string]string{"Retry-After": "17"}},
			&provision.Error{Kind: provision.Refused, Status: 403, RetryAfter: 17 * time.Second, Message: "the server does not allow registering the client; check the initial access token"},
		},
		"no answer":                   {reply{err: errors.New("read tcp 10.0.0.1:5555: initial-hush")}, incomplete},
		"no JSON":                     {reply{status: 201, body: "OK"}, senseless},
		"null":                        {reply{status: 201, body: "null"}, senseless},
		"no client":                   {reply{status: 201, body: `{"client_secret":"s"}`}, senseless},
		"no secret":                   {reply{status: 201, body: `{"client_id":"c"}`}, senseless},
		"a client with a line break":  {reply{status: 201, body: `{"client_id":"c\n","client_secret":"s"}`}, senseless},
		"a secret that is too long":   {reply{status: 201, body: `{"client_id":"c","client_secret":"` + strings.Repeat("s", 4097) + `"}`}, senseless},
		"a secret in another script":  {reply{status: 201, body: `{"client_id":"c","client_secret":"schlüssel"}`}, senseless},
		"an expiry that is no number": {reply{status: 201, body: `{"client_id":"c","client_secret":"s","client_secret_expires_at":"soon"}`}, senseless},
		"an expiry before all times":  {reply{status: 201, body: `{"client_id":"c","client_secret":"s","client_secret_expires_at":-1}`}, senseless},
		"an answer beyond measure": {
			reply{status: 201, body: strings.Repeat(" ", egress.MaxBody+1)},
			&provision.Error{Kind: provision.Unavailable, Message: "the registration endpoint answered with more than 524288 bytes"},
		},
		"a connection that is not allowed": {
			reply{err: &egress.BlockedError{Reason: "no loopback"}},
			&provision.Error{Kind: provision.Refused, Message: "the registration endpoint was not contacted: no loopback"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := scripted(t, tc.answer)
			c := &provision.Credential{Name: named("1"), Stage: provision.Issuing}
			wantError(t, d.Issue(t.Context(), wants("read"), &provision.ClientState{}, c), tc.want)
			if c.ClientID != "" || c.Secret != "" {
				t.Errorf("the credential was filled in: %v", *c)
			}
		})
	}
	t.Run("a context that ended", func(t *testing.T) {
		d, _ := scripted(t, reply{err: errors.New("whatever")})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := d.Issue(ctx, wants("read"), &provision.ClientState{}, &provision.Credential{})
		if !errors.Is(err, context.Canceled) || provision.KindOf(err) != "" {
			t.Errorf("got %v", err)
		}
	})
}

func TestIssueAgainLeavesBehindWhatAnEarlierAttemptMade(t *testing.T) {
	made := reply{status: 201, body: `{"client_id":"c","client_secret":"s"}`}
	d, _ := scripted(t, made, made)
	state := &provision.ClientState{}
	for i := range 20 {
		state.LeftBehind = append(state.LeftBehind, strings.Repeat("x", i+1))
	}
	for range 2 {
		if err := d.Issue(t.Context(), wants("read"), state, &provision.Credential{Name: named("1"), Attempted: true}); err != nil {
			t.Fatal(err)
		}
	}
	want := `A client that was registered as "shop/cart@c1 (m2m-operator:` + cart.ID() + `) 1" may exist at the server; its answer was lost`
	if got := state.LeftBehind; len(got) != 16 || got[15] != want || got[14] != strings.Repeat("x", 20) {
		t.Errorf("got %q", got)
	}
}
