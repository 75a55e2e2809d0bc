// SPDX-License-Identifier: Apache-2.0

package registration_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	registrationtest "github.com/m2m-operator/m2m-operator/internal/testing/registration"
)

const (
	initialToken = "the-initial-access-token"
	payment      = "https://payment.example.com/api"
	shipping     = "https://shipping.example.com/api"
)

func access(resource string, scopes ...string) provision.Access {
	return provision.Access{Resource: resource, Scopes: scopes}
}

// goOIDC is go-oidc as the tests of registrations see it.
type goOIDC struct{ *oidc.Server }

func (s goOIDC) TokenEndpoint() string        { return s.TokenURL() }
func (s goOIDC) RegistrationEndpoint() string { return s.RegistrationURL() }
func (s goOIDC) Delete(id string)             { s.RemoveClient(id) }

func (s goOIDC) Registered() (all []registrationtest.Registered) {
	for _, c := range s.RegisteredClients() {
		all = append(all, registrationtest.Registered{ID: c.ID, Name: c.Name, Scopes: c.Scopes})
	}
	return all
}

func (s goOIDC) Change(to registrationtest.Registered) {
	s.ChangeRegisteredClient(to.ID, func(c *oidc.RegisteredClient) { c.Name, c.Scopes = to.Name, to.Scopes })
}

// newWorld makes an operator with a server of its own, in process.
func newWorld(t *testing.T, o oidc.DynamicRegistration, method string) (*registrationtest.World, *oidc.Server) {
	t.Helper()
	o.InitialAccessToken = initialToken
	server, err := oidc.Start(oidc.Options{DynamicRegistration: &o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return registrationtest.NewWorld(t, registrationtest.Config{
		Server: goOIDC{server}, InitialAccessToken: initialToken, AuthenticationMethod: method,
		Access: []provision.Access{access(payment, "cancel", "read", "write"), access(shipping, "read", "track")},
	}), server
}

func TestRandomSequencesWithGoOIDC(t *testing.T) {
	registrationtest.Sequences(t, 500, func(t *testing.T, seed uint64) *registrationtest.World {
		w, _ := newWorld(t, oidc.DynamicRegistration{RotateTokens: seed%2 == 0}, "")
		return w
	})
}

func TestStoryWithGoOIDC(t *testing.T) {
	for _, method := range []string{registration.ClientSecretBasic, registration.ClientSecretPost} {
		for _, rotate := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, tokens rotate: %t", method, rotate), func(t *testing.T) {
				w, _ := newWorld(t, oidc.DynamicRegistration{RotateTokens: rotate}, method)
				want := registrationtest.Behaviour{UpdateReplacesSecret: true, UpdateReplacesToken: rotate}
				if diff := cmp.Diff(want, registrationtest.Story(w, true)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
	t.Run("with nobody at the console", func(t *testing.T) {
		w, _ := newWorld(t, oidc.DynamicRegistration{}, "")
		registrationtest.Story(w, false)
	})
}
