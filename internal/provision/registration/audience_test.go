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
