// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
)

// hydra keeps one registration and its audience, as Ory Hydra does: no token is
// issued for an audience that the registration does not list.
type hydra struct{ members map[string]any }

func (h *hydra) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		h.members = map[string]any{"audience": []string{}}
		if err := json.NewDecoder(r.Body).Decode(&h.members); err != nil {
			return nil, err
		}
	}
	status := http.StatusOK
	if r.Method == http.MethodPost {
		status = http.StatusCreated
		h.members["client_id"], h.members["client_secret"] = "client-1", "hush-1"
		h.members["registration_access_token"], h.members["registration_client_uri"] = "rat-hush-1", uri
	}
	body, err := json.Marshal(h.members)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Request: r, Body: io.NopCloser(strings.NewReader(string(body)))}, nil
}

// TestAudienceIsRegistered follows a client's audience: it is registered, changes
// with the access, and keeps what an administrator added.
func TestAudienceIsRegistered(t *testing.T) {
	server := &hydra{}
	d := registration.New(registration.Config{
		Endpoint: endpoint, Audience: true, HTTP: &http.Client{Transport: server}, Now: func() time.Time { return noon },
	})
	state := &provision.ClientState{Credentials: []provision.Credential{{Name: named("1"), Stage: provision.Issuing}}}
	want := provision.Client{Owner: cart, Access: []provision.Access{access(shipping, "read"), access(payment, "read")}}
	has := func(when string, audience ...string) {
		t.Helper()
		if diff := cmp.Diff(fmt.Sprint(audience), fmt.Sprint(server.members["audience"])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	sync := func(wantDrift ...provision.Drift) {
		t.Helper()
		drift, err := d.SyncClient(t.Context(), want, state, kept)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantDrift, drift); diff != "" {
			t.Errorf("drift (-want +got):\n%s", diff)
		}
	}
	if err := d.Issue(t.Context(), want, state, &state.Credentials[0]); err != nil {
		t.Fatal(err)
	}
	has("registered", payment, shipping)
	state.Credentials[0].Stage = provision.Current

	const others = "https://added.example.com"
	server.members["audience"] = []string{others, payment, shipping}
	sync()
	has("with one that an administrator added", others, payment, shipping)

	want.Access = want.Access[1:] // of the same scope
	sync()
	has("with less access", others, payment)

	server.members["audience"] = []string{others}
	sync("An API was missing from the client's audience")
	has("put back", others, payment)
}

// What follows from a change of the APIs alone, all of the same scope, depends on whether a registration lists them.
func TestOtherAPIsOfTheSameScope(t *testing.T) {
	both, one := []provision.Access{access(payment, "read"), access(shipping, "read")}, []provision.Access{access(payment, "read")}
	later := noon.Add(time.Hour)
	with := func(c provision.Credential) []provision.Credential {
		return []provision.Credential{has(provision.Retiring, second, unmanaged, retireAt(later)), c}
	}
	for name, tc := range map[string]struct {
		audience   bool
		credential provision.Credential
		want       []provision.Access // before: both
		answers    []reply
		until      time.Time // the replaced credential
		replaced   bool
		drift      []provision.Drift
	}{
		"all in order, and the server does not say": {
			audience: true, credential: has(provision.Current), want: both, answers: []reply{registered("read", "")}, until: later,
		},
		"all in order, without management": {audience: true, credential: has(provision.Current, unmanaged), want: both, until: later},
		"one less": {
			audience: true, credential: has(provision.Current), want: one, until: noon,
			answers: []reply{registered("read", `,"audience":["`+payment+`","`+shipping+`"]`), registered("read", `,"audience":["`+payment+`"]`)},
		},
		"one less, without management":             {audience: true, credential: has(provision.Current, unmanaged), want: one, until: noon, replaced: true},
		"one less that no registration lists":      {credential: has(provision.Current), want: one, answers: []reply{registered("read", "")}, until: later},
		"one less that none lists, not manageable": {credential: has(provision.Current, unmanaged), want: one, until: later},
		"a scope is missing, and the server does not say": {
			audience: true, credential: has(provision.Current), want: both, answers: []reply{registered("", ""), registered("read", "")}, until: later,
			drift: []provision.Drift{`Scope "read" was missing`},
		},
		"a scope is missing, and the audience is another's": {
			credential: has(provision.Current), want: both, until: later,
			answers: []reply{registered("", `,"audience":["https://x"]`), registered("read", "")}, drift: []provision.Drift{`Scope "read" was missing`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{t: t, answers: tc.answers}
			d := registration.New(registration.Config{
				Endpoint: endpoint, Audience: tc.audience, HTTP: &http.Client{Transport: s}, Now: func() time.Time { return noon },
			})
			state := &provision.ClientState{Access: both, Sequence: 2, Credentials: with(tc.credential)}
			drift, err := d.SyncClient(t.Context(), provision.Client{Owner: cart, Access: tc.want}, state, kept)
			if err != nil || len(s.answers) > 0 {
				t.Fatalf("SyncClient() = %v with %d answers to come", err, len(s.answers))
			}
			if diff := cmp.Diff(tc.drift, drift); diff != "" {
				t.Errorf("drift (-want +got):\n%s", diff)
			}
			if until := state.Credentials[0].RetireAt; !until.Equal(tc.until) {
				t.Errorf("the replaced credential stays until %s", until)
			}
			if replaced := len(state.Credentials) == 3; replaced != tc.replaced {
				t.Errorf("it has %d credentials", len(state.Credentials))
			}
		})
	}
}
