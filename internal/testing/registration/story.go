// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
)

// Behaviour is the observed behaviour of a server.
type Behaviour struct {
	// UpdateReplacesSecret and UpdateReplacesToken report that an update returns another
	// client secret, or another registration access token.
	UpdateReplacesSecret, UpdateReplacesToken bool
}

// Story registers a client, changes its scopes, rotates its credential, corrects
// changes of others, and deletes it, with a token request after each step. The world
// must be unused, and its first access must have two scopes or more. If console is
// false, the server has no console, and that part is skipped.
func Story(w *World, console bool) Behaviour {
	w.t.Helper()
	w.t.Cleanup(func() { w.tidy() })
	s := &story{World: w, console: console, all: w.Want.Access, resource: w.Want.Access[0].Resource, scopes: w.Want.Access[0].Scopes}
	s.create()
	seen := s.update()
	s.rotate()
	if console {
		s.changed()
	}
	s.deleted()
	s.remove()
	if left := w.State().LeftBehind; len(left) > 0 {
		w.t.Errorf("something was left behind: %q", left)
	}
	if leak := w.leak(); leak != "" {
		w.t.Errorf("a secret was shown: %s", leak)
	}
	return seen
}

// tidy deletes what a failed story has left over.
func (w *World) tidy() {
	if len(w.State().Credentials) > 0 {
		w.killAt, w.faults = 0, nil
		_ = w.Remove()
	}
}

type story struct {
	*World
	console  bool
	all      []provision.Access
	resource string
	scopes   []string // of the resource
}

// good syncs. It checks that it can get a token with everything wanted, and that only
// drift was reported.
func (s *story) good(drift ...provision.Drift) *provision.Credential {
	s.t.Helper()
	if got := s.MustSync(); !slices.Equal(got, drift) {
		s.t.Errorf("drift is %q, not %q", got, drift)
	}
	for _, a := range s.Want.Access {
		if err := s.Token(a.Resource, a.Scopes...); err != nil {
			s.t.Fatalf("token for %q: %v", a.Resource, err)
		}
	}
	return s.State().Current()
}

// registered checks the number of clients at the server.
func (s *story) registered(n int) {
	s.t.Helper()
	if all := s.Server.Registered(); s.console && len(all) != n {
		s.t.Fatalf("the server has %d registrations, not %d: %v", len(all), n, all)
	}
}

func (s *story) create() {
	s.t.Helper()
	s.good()
	s.registered(1)
	s.good()
	if want := []string{http.MethodGet}; !slices.Equal(s.Requests, want) {
		s.t.Errorf("a call with nothing to do made the requests %q", s.Requests)
	}
}

func (s *story) update() Behaviour {
	s.t.Helper()
	before := s.State().Current()
	s.Want.Access = []provision.Access{{Resource: s.resource, Scopes: s.scopes[:1]}}
	after := s.good()
	if after.ClientID != before.ClientID {
		s.t.Error("the client was registered again for an update")
	}
	if err := s.Token(s.resource, s.scopes...); err == nil {
		s.t.Error("a withdrawn scope is still in tokens")
	}
	s.Want.Access = s.all
	s.good()
	s.registered(1)
	return Behaviour{
		UpdateReplacesSecret: before.Secret != after.Secret,
		UpdateReplacesToken:  before.RegistrationToken != after.RegistrationToken,
	}
}

func (s *story) rotate() {
	s.t.Helper()
	before := s.State().Current()
	s.Rotation.Request = "once"
	after := s.good()
	if before.ClientID == after.ClientID || before.Secret == after.Secret || len(s.State().Credentials) != 2 {
		s.t.Error("the credential was not rotated with an overlap")
	}
	s.registered(2)
	s.Now = s.Now.Add(s.Rotation.Overlap + time.Second)
	if again := s.good(); again.ClientID != after.ClientID || len(s.State().Credentials) != 1 {
		s.t.Error("the overlap did not end")
	}
	s.registered(1)
}

// changed makes changes at the console.
func (s *story) changed() {
	s.t.Helper()
	c := s.Server.Registered()[0]
	name := c.Name
	c.Name, c.Scopes = "renamed", s.scopes[:1]
	s.Server.Change(c)
	var drift []provision.Drift
	for _, a := range s.all {
		for _, scope := range a.Scopes {
			if scope != s.scopes[0] {
				drift = append(drift, provision.Driftf("Scope %q was missing", scope))
			}
		}
	}
	slices.Sort(drift)
	s.good(append(slices.Compact(drift), "The client had been renamed")...)
	s.good()
	if c := s.Server.Registered()[0]; c.Name != name {
		s.t.Errorf("the client is named %q", c.Name)
	}
}

func (s *story) deleted() {
	s.t.Helper()
	before := s.State().Current()
	if s.console {
		s.Server.Delete(before.ClientID)
	} else {
		s.deleteWithToken(before)
	}
	after := s.good("The client's registration was missing")
	if before.ClientID == after.ClientID {
		s.t.Error("the client was not registered again")
	}
	s.good()
	s.registered(1)
}

// deleteWithToken deletes a registration without a console.
func (s *story) deleteWithToken(c *provision.Credential) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodDelete, c.RegistrationURI, strings.NewReader(""))
	if err != nil {
		s.t.Fatal("the registration has no URI")
	}
	req.Header.Set("Authorization", "Bearer "+c.RegistrationToken.Reveal())
	resp, err := s.Server.Transport().RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		s.t.Fatalf("the deletion was answered with %d", resp.StatusCode)
	}
}

func (s *story) remove() {
	s.t.Helper()
	s.Want.Access = nil
	s.MustSync()
	if state := s.State(); len(state.Credentials) > 0 || state.ID != "" {
		s.t.Error("a client without access has kept its registration")
	}
	s.registered(0)
	s.Want.Access = s.all
	s.good()
	if err := s.Remove(); err != nil {
		s.t.Fatalf("remove: %v", err)
	}
	if err := s.Remove(); err != nil || len(s.Requests) > 0 {
		s.t.Errorf("removing again: %v, with %q", err, s.Requests)
	}
	s.registered(0)
}
