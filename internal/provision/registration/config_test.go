// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
)

// Only a registration needs the initial access token. What is registered is changed by the endpoint and the method, and
// deleted by the endpoint alone.
func TestConfigurationIsChecked(t *testing.T) {
	const (
		relative = "the registration endpoint is not an absolute http or https URL"
		badToken = "the initial access token contains a character that is not allowed in a token, such as a line break"
	)
	long := func(n int) string { return endpoint + "/" + strings.Repeat("x", n-len(endpoint)-1) }
	for name, tc := range map[string]struct {
		config           registration.Config
		want             string
		missing, unknown bool // the endpoint, the method
	}{
		"complete":                        {config: registration.Config{Endpoint: endpoint}},
		"in plain text":                   {config: registration.Config{Endpoint: "http://as.example.com"}},
		"the longest endpoint":            {config: registration.Config{Endpoint: long(2048)}},
		"an endpoint that is too long":    {config: registration.Config{Endpoint: long(2049)}, want: relative, missing: true},
		"no endpoint":                     {config: registration.Config{}, want: "the server's metadata names no registration endpoint, and none is set", missing: true},
		"a relative endpoint":             {config: registration.Config{Endpoint: "/reg"}, want: relative, missing: true},
		"no URL":                          {config: registration.Config{Endpoint: "::"}, want: relative, missing: true},
		"an endpoint without a host":      {config: registration.Config{Endpoint: "https:///reg"}, want: relative, missing: true},
		"an endpoint of another scheme":   {config: registration.Config{Endpoint: "ftp://as.example.com/reg"}, want: relative, missing: true},
		"an endpoint with a user":         {config: registration.Config{Endpoint: "https://me@as.example.com/reg"}, want: relative, missing: true},
		"an endpoint with a fragment":     {config: registration.Config{Endpoint: endpoint + "#"}, want: relative, missing: true},
		"an unknown method":               {config: registration.Config{Endpoint: endpoint, AuthenticationMethod: "none"}, want: "the authentication method is neither client_secret_basic nor client_secret_post", unknown: true},
		"a token with a line break in it": {config: registration.Config{Endpoint: endpoint, InitialAccessToken: "hush\n"}, want: badToken},
		"a token with a space in it":      {config: registration.Config{Endpoint: endpoint, InitialAccessToken: "Bearer hush"}, want: badToken},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{t: t}
			tc.config.HTTP = &http.Client{Transport: s}
			d := registration.New(tc.config)
			if tc.want == "" {
				if err := d.Check(t.Context()); err != nil {
					t.Error(err)
				}
				return
			}
			want := &provision.Error{Kind: provision.Refused, Message: tc.want}
			wantError(t, d.Check(t.Context()), want)
			wantError(t, d.Issue(t.Context(), wants("read"), &provision.ClientState{}, &provision.Credential{}), want)
			state := &provision.ClientState{Access: rw, Credentials: append([]provision.Credential{}, current...)}
			if !tc.missing && !tc.unknown {
				s.answers = []reply{registered("read write", "")}
			}
			if _, err := d.SyncClient(t.Context(), provision.Client{Owner: cart, Access: rw}, state, kept); tc.missing || tc.unknown {
				wantError(t, err, want)
			} else if err != nil || len(s.answers) > 0 {
				t.Errorf("SyncClient() = %v with %d answers to come", err, len(s.answers))
			}
			if !tc.missing {
				s.answers = []reply{{status: 204}}
			}
			if _, err := d.SyncClient(t.Context(), provision.Client{Owner: cart}, state, kept); tc.missing {
				wantError(t, err, want)
			} else if err != nil || len(s.answers) > 0 {
				t.Errorf("removed with %v and %d answers to come", err, len(s.answers))
			}
			if left := len(state.Credentials); (left > 0) != tc.missing || len(state.LeftBehind) > 0 {
				t.Errorf("it has %d credentials, and left behind %q", left, state.LeftBehind)
			}
		})
	}
}

// Where registration is open to all, a server that wants a token has its own words.
func TestIssueWithoutAnInitialAccessToken(t *testing.T) {
	s := &script{t: t, answers: []reply{{status: 401}}}
	d := registration.New(registration.Config{Endpoint: endpoint, HTTP: &http.Client{Transport: s}})
	err := d.Issue(t.Context(), wants("read"), &provision.ClientState{}, &provision.Credential{Name: named("1")})
	wantError(t, err, &provision.Error{Kind: provision.Refused, Status: 401, Message: "registration needs an initial access token"})
	if diff := cmp.Diff([]string{"POST " + endpoint}, s.asked); diff != "" {
		t.Error(diff)
	}
}

func TestAPIsAreTakenForDeclared(t *testing.T) {
	d, _ := scripted(t)
	for _, observe := range []bool{false, true} {
		state := &provision.APIState{}
		want := provision.API{Identifier: payment, Scopes: []provision.Scope{{Name: "write"}, {Name: "read"}}, Observe: observe, TokenLifetime: time.Hour}
		if drift, err := d.SyncAPI(t.Context(), want, state, kept); err != nil || len(drift) > 0 {
			t.Errorf("got %q, %v", drift, err)
		}
		if diff := cmp.Diff(&provision.APIState{Scopes: []string{"read", "write"}}, state); diff != "" {
			t.Error(diff)
		}
		if err := d.RemoveAPI(t.Context(), want, state, kept); err != nil {
			t.Error(err)
		}
	}
}
