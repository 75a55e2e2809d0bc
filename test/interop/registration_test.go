// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/egress"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/provision/registration"
	"github.com/m2m-operator/m2m-operator/internal/testing/oidc"
	registrationtest "github.com/m2m-operator/m2m-operator/internal/testing/registration"
)

const (
	initialAccessToken = "the-initial-access-token"
	shippingAPI        = "https://shipping.example.com/api"
)

// registrationSequences is how many random sequences run against oidc-provider.
const registrationSequences = 60

// registrar is a server with dynamic registration as its metadata describes it.
// Without a console, changes at the console have no effect.
type registrar struct {
	metadata  *jwks.Metadata
	transport http.RoundTripper
}

func (r registrar) TokenEndpoint() string                     { return r.metadata.TokenEndpoint }
func (r registrar) RegistrationEndpoint() string              { return r.metadata.RegistrationEndpoint }
func (r registrar) Transport() http.RoundTripper              { return r.transport }
func (r registrar) Registered() []registrationtest.Registered { return nil }
func (r registrar) Change(registrationtest.Registered)        {}
func (r registrar) Delete(string)                             {}

func newRegistrar(t *testing.T, issuer string, policy egress.Policy, caPEM []byte) registrar {
	t.Helper()
	hc, err := policy.NewClient(caPEM)
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := jwks.Discover(t.Context(), hc, issuer)
	if err != nil {
		t.Fatalf("discovery: %v", err)
	}
	return registrar{metadata: metadata, transport: hc.Transport}
}

// goOIDC is the server of internal/testing/oidc with its console.
type goOIDC struct {
	registrar
	*oidc.Server
}

func (s goOIDC) Transport() http.RoundTripper { return s.transport }
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

// providerConsole is oidc-provider with its console.
type providerConsole struct {
	registrar
	*oidcProvider
}

func (s providerConsole) order(changes map[string]*registeredClient) {
	if err := s.change(func() { s.config.Changes = changes }); err != nil {
		s.t.Errorf("oidc-provider: change registered clients: %v", err)
	}
}

func (s providerConsole) Registered() (all []registrationtest.Registered) {
	s.order(nil)
	for _, c := range s.registered {
		all = append(all, registrationtest.Registered{ID: c.ID, Name: c.Name, Scopes: slices.Sorted(slices.Values(strings.Fields(c.Scope)))})
	}
	return all
}

func (s providerConsole) Change(to registrationtest.Registered) {
	s.order(map[string]*registeredClient{to.ID: {ID: to.ID, Name: to.Name, Scope: strings.Join(to.Scopes, " ")}})
}

func (s providerConsole) Delete(id string) { s.order(map[string]*registeredClient{id: nil}) }

// registrationServer is a server whose registration is tested, with and without rotating
// tokens.
type registrationServer struct {
	start         func(t *testing.T, rotate bool) registrationtest.Server
	alwaysRotates bool // only one of the two is possible
	open          bool // requires no initial access token
	knowsScopes   bool // registers no others
	audience      bool // names APIs by audience, also in a registration
}

var registrationServers = map[string]registrationServer{
	"oidctest": {start: func(t *testing.T, rotate bool) registrationtest.Server {
		s, err := oidc.Start(oidc.Options{
			DynamicRegistration: &oidc.DynamicRegistration{InitialAccessToken: initialAccessToken, RotateTokens: rotate},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return goOIDC{newRegistrar(t, s.Issuer(), egressPolicy, nil), s}
	}},
	"oidc-provider": {knowsScopes: true, start: func(t *testing.T, rotate bool) registrationtest.Server {
		s := startProvider(t, serverOptions{lifetime: time.Hour}, &providerRegistration{InitialAccessToken: initialAccessToken, Rotate: rotate})
		t.Cleanup(s.Close)
		for _, a := range registrationAccess {
			s.SetResource(a.Resource, a.Scopes...)
		}
		return providerConsole{newRegistrar(t, s.Issuer(), egressPolicy, nil), s}
	}},
	"hydra": {alwaysRotates: true, open: true, audience: true, start: func(t *testing.T, _ bool) registrationtest.Server {
		s := newHydra(t, "", "", time.Hour)
		t.Cleanup(s.Close)
		return hydraConsole{newRegistrar(t, s.Issuer(), egressPolicy, nil), s}
	}},
}

var registrationAccess = []provision.Access{
	{Resource: paymentAPI, Scopes: []string{readPayment, writePayment}}, {Resource: shippingAPI, Scopes: []string{"ship", "track"}},
}

// eachRegistrationServer runs a test with the servers that TestInterop would use.
func eachRegistrationServer(t *testing.T, run func(t *testing.T, name string, s registrationServer)) {
	for _, subject := range subjects {
		if s, ok := registrationServers[subject.name]; ok {
			t.Run("server="+subject.name, func(t *testing.T) { run(t, subject.name, s) })
		}
	}
}

// config describes a server that was started.
func (s registrationServer) config(started registrationtest.Server, method string) registrationtest.Config {
	return registrationtest.Config{
		Server: started, InitialAccessToken: initialAccessToken, Access: registrationAccess, AuthenticationMethod: method, Audience: s.audience,
	}
}

func TestRegistration(t *testing.T) {
	eachRegistrationServer(t, func(t *testing.T, name string, s registrationServer) {
		for _, rotate := range []bool{false, true} {
			if s.alwaysRotates && !rotate {
				continue
			}
			for _, method := range []string{registration.ClientSecretBasic, registration.ClientSecretPost} {
				t.Run(fmt.Sprintf("tokens rotate: %t, %s", rotate, method), func(t *testing.T) {
					seen := registrationtest.Story(registrationtest.NewWorld(t, s.config(s.start(t, rotate), method)), true)
					if seen.UpdateReplacesToken != rotate {
						t.Errorf("the registration access token was replaced: %t", seen.UpdateReplacesToken)
					}
					noteRegistration(name, seen)
				})
			}
		}
	})
	named, err := parseRegistrationServer(os.Getenv, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	if named != nil {
		t.Run("server=named", func(t *testing.T) {
			s := newRegistrar(t, named.issuer, named.egress, named.caPEM)
			noteRegistration("named", registrationtest.Story(registrationtest.NewWorld(t, registrationtest.Config{
				Server: s, InitialAccessToken: named.token, Access: named.access,
			}), false))
		})
	}
}

func noteRegistration(server string, seen registrationtest.Behaviour) {
	allReports.add(server, func(r *report) {
		r.Behaviour = append(r.Behaviour, property{"update of a registration", fmt.Sprintf(
			"another client secret: %t, another registration access token: %t", seen.UpdateReplacesSecret, seen.UpdateReplacesToken)})
	})
}

// TestRegistrationRefused makes the server judge faulty requests.
func TestRegistrationRefused(t *testing.T) {
	eachRegistrationServer(t, func(t *testing.T, _ string, s registrationServer) {
		if s.open {
			return // it refuses nothing
		}
		config := s.config(s.start(t, true), "")
		config.InitialAccessToken = "another"
		w := registrationtest.NewWorld(t, config)
		_, err := w.Sync()
		var refused *provision.Error
		if !errors.As(err, &refused) || refused.Kind != provision.Refused || !strings.Contains(refused.Message, "initial access token") {
			t.Errorf("another initial access token: %v", err)
		}
		if !s.knowsScopes {
			return
		}
		config.InitialAccessToken, config.Access = initialAccessToken, []provision.Access{{Resource: paymentAPI, Scopes: []string{"root"}}}
		_, err = registrationtest.NewWorld(t, config).Sync()
		if !errors.As(err, &refused) || refused.Kind != provision.Refused || refused.Code != "invalid_client_metadata" {
			t.Errorf("a scope that the server does not know: %v", err)
		}
	})
}

// TestRegistrationRandomSequences is registrationtest.Sequences with servers over the network.
func TestRegistrationRandomSequences(t *testing.T) {
	eachRegistrationServer(t, func(t *testing.T, _ string, s registrationServer) {
		byRotation := map[bool]registrationtest.Server{true: s.start(t, true), false: s.start(t, false)}
		registrationtest.Sequences(t, registrationSequences, func(t *testing.T, seed uint64) *registrationtest.World {
			started := byRotation[seed%2 == 0]
			for _, c := range started.Registered() {
				started.Delete(c.ID) // of the previous sequence
			}
			return registrationtest.NewWorld(t, s.config(started, ""))
		})
	})
}

// namedRegistration is an existing server with registration.
type namedRegistration struct {
	issuer, token string
	access        []provision.Access
	egress        egress.Policy
	caPEM         []byte
}

// parseRegistrationServer reads M2M_PROVISION_REGISTRATION_ISSUER and the related
// variables. It returns nil if that is not set.
func parseRegistrationServer(getenv func(string) string, readFile func(string) ([]byte, error)) (*namedRegistration, error) {
	get := func(name string) string { return strings.TrimSpace(getenv("M2M_PROVISION_REGISTRATION_" + name)) }
	if get("ISSUER") == "" {
		return nil, nil
	}
	s := &namedRegistration{
		issuer: get("ISSUER"), token: get("INITIAL_ACCESS_TOKEN"),
		access: []provision.Access{{Resource: get("RESOURCE"), Scopes: slices.Sorted(slices.Values(strings.Fields(get("SCOPES"))))}},
		egress: egress.Policy{AllowHTTP: get("ALLOW_HTTP") == "1", AllowLoopback: get("ALLOW_LOOPBACK") == "1"},
	}
	if s.access[0].Resource == "" || len(s.access[0].Scopes) < 2 {
		return nil, errors.New("M2M_PROVISION_REGISTRATION_RESOURCE and M2M_PROVISION_REGISTRATION_SCOPES must name an API and two of its scopes or more")
	}
	if path := get("CA_FILE"); path != "" {
		var err error
		if s.caPEM, err = readFile(path); err != nil {
			return nil, fmt.Errorf("M2M_PROVISION_REGISTRATION_CA_FILE names a file that cannot be read: %w", err)
		}
	}
	return s, nil
}
