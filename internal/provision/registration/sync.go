// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/m2m-operator/m2m-operator/internal/provision"
	"github.com/m2m-operator/m2m-operator/internal/text"
)

// SyncClient makes the registrations of a client match want. If the server does not allow updates, a new registration
// replaces a credential whose scopes are no longer right. A client without access loses its registrations, because a
// registration without scopes may get the server's default ones, or all (RFC 7591 section 2).
//
// state.Creating is set while an update is under way, because its answer may bring a new secret. If the answer is lost,
// the next call repeats the update, unless the server shows the secret when asked.
func (d *Driver) SyncClient(ctx context.Context, want provision.Client, state *provision.ClientState, keep provision.Keep) ([]provision.Drift, error) {
	if len(want.Access) == 0 {
		want.Retain = false
		return nil, d.RemoveClient(ctx, want, state, keep)
	}
	if err := d.usable(want); err != nil {
		return nil, err
	}
	s := &syncing{
		Driver: d, want: want, state: state, keep: keep, uncertain: state.Creating,
		before: scopes(state.Access), wanted: scopes(want.Access), beforeAudience: audiences(state.Access),
	}
	if lacks(s.wanted, s.before) || d.config.Audience && lacks(audiences(want.Access), s.beforeAudience) {
		s.endOverlap()
	}
	for i := 0; i < len(state.Credentials); {
		there, err := s.credential(ctx, &state.Credentials[i])
		if err != nil {
			return s.drift, err
		}
		if there {
			i++
			continue
		}
		forget(state, i)
	}
	if s.stale {
		s.replace()
		s.told = nil
	}
	state.Access, state.Creating = granted(want.Access, s.told), false
	return s.drift, nil
}

// lacks reports whether a list lacks an element of another.
func lacks(list, of []string) bool {
	return slices.ContainsFunc(of, func(s string) bool { return !slices.Contains(list, s) })
}

// changed reports whether the client should have other access than the last call left.
func (s *syncing) changed() bool {
	return !slices.Equal(s.before, s.wanted) || s.config.Audience && !slices.Equal(s.beforeAudience, audiences(s.want.Access))
}

// syncing is one call of SyncClient.
type syncing struct {
	*Driver
	want  provision.Client
	state *provision.ClientState
	keep  provision.Keep

	uncertain      bool     // the answer to an earlier update was lost
	before, wanted []string // the scopes
	beforeAudience []string // the identifiers of the APIs before
	told           *string  // the scopes by the server's word, nil if it does not say
	stale          bool     // the scopes have changed, and the server allows no update
	drift          []provision.Drift
}

// endOverlap schedules replaced credentials for immediate revocation, because they can still do what the client no
// longer should.
func (s *syncing) endOverlap() {
	for i := range s.state.Credentials {
		if c := &s.state.Credentials[i]; c.Stage == provision.Retiring {
			c.RetireAt = s.config.Now().UTC().Truncate(time.Second)
		}
	}
}

// credential puts one registration right, and reports whether the server still has it.
func (s *syncing) credential(ctx context.Context, c *provision.Credential) (there bool, err error) {
	if c.Stage == provision.Issuing || c.Stage == provision.Retiring {
		return true, nil
	}
	if !s.managed(c) {
		s.stale = s.stale || s.changed()
		return true, nil
	}
	a, err := s.send(ctx, http.MethodGet, c.RegistrationURI, c.RegistrationToken, nil)
	if err != nil {
		return true, err
	}
	if a.status != http.StatusOK {
		return s.absent(c, a)
	}
	found, err := s.read(ctx, c, a)
	if err != nil {
		return true, err
	}
	if s.matches(found, c) && (!s.uncertain || found.secret != "") {
		s.told = found.scope
		return true, nil
	}
	return true, s.update(ctx, c, found)
}

// absent judges an answer without a registration. It believes only what a registration endpoint says, not a proxy in
// its place, because a registration once given up cannot be found again.
func (s *syncing) absent(c *provision.Credential, a *answer) (there bool, err error) {
	gone := a.status == http.StatusUnauthorized || a.absent()
	// Forbidden, or the server itself cannot read it: it may exist.
	withheld := (a.status == http.StatusForbidden || a.status == http.StatusBadRequest) && a.object()
	if a.busy() || !gone && !withheld {
		return true, unavailable(a, "the server did not show a registration")
	}
	if !gone || s.uncertain {
		leaveBehind(s.state, unmanageable(c))
	}
	if !s.uncertain {
		s.drift = append(s.drift, "The client's registration was missing")
	}
	return false, nil
}

// read copies what an answer says to the credential, and records any news at once.
func (s *syncing) read(ctx context.Context, c *provision.Credential, a *answer) (*registered, error) {
	r, err := parse(a.body)
	if err != nil || r.id != c.ClientID {
		return nil, senseless(a)
	}
	if s.take(c, r) {
		return r, s.keep(ctx)
	}
	return r, nil
}

// unsupported are the statuses by which a server says that it cannot update a registration. It has just shown the
// registration, so the access token is good.
var unsupported = []int{
	http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented,
}

func (s *syncing) update(ctx context.Context, c *provision.Credential, found *registered) error {
	differences := s.differences(found, c)
	s.state.Creating = true
	if err := s.keep(ctx); err != nil {
		return err
	}
	a, err := s.send(ctx, http.MethodPut, c.RegistrationURI, c.RegistrationToken, s.replacement(found, c))
	if err != nil {
		return err
	}
	switch {
	case a.status/100 == 2:
	case a.busy():
		return unavailable(a, "the server did not update a registration")
	case slices.Contains(unsupported, a.status) || a.status/100 == 3:
		s.stale = s.stale || s.changed()
		s.drift = append(s.drift, differences...)
		return nil
	default:
		s.state.Creating = s.uncertain
		if err := s.keep(ctx); err != nil {
			return err
		}
		a.secrets = append(a.secrets, c.Secret.Reveal())
		return rejected(a, "the server refused to update a registration")
	}
	now, err := s.read(ctx, c, a)
	if err != nil {
		return err
	}
	s.told = now.scope
	// What the server makes of every request is not drift.
	remaining := s.differences(now, c)
	for _, difference := range differences {
		if !slices.Contains(remaining, difference) {
			s.drift = append(s.drift, difference)
		}
	}
	return nil
}

// differences returns how a registration differs from what the last call left, apart from changes of want.
func (s *syncing) differences(r *registered, c *provision.Credential) (drift []provision.Drift) {
	if s.uncertain {
		return nil
	}
	has := r.scopes()
	for _, scope := range s.before {
		if !slices.Contains(has, scope) {
			drift = append(drift, provision.Driftf("Scope %q was missing", text.ASCII(scope, 128)))
		}
	}
	for _, scope := range has {
		if !slices.Contains(s.before, scope) {
			drift = append(drift, provision.Driftf("Scope %q had been added", text.ASCII(scope, 128)))
		}
	}
	if s.config.Audience && r.audience != nil && lacks(r.audience, s.beforeAudience) {
		drift = append(drift, "An API was missing from the client's audience")
	}
	if r.name != "" && r.name != clientName(s.want, c) {
		drift = append(drift, "The client had been renamed")
	}
	if !r.grants() {
		drift = append(drift, "The client's grant types had been changed")
	}
	return drift
}

// replace adds a credential, for which another client will be registered. The current one serves until the new one
// works.
func (s *syncing) replace() {
	for i := range s.state.Credentials {
		switch c := &s.state.Credentials[i]; c.Stage {
		case provision.Issuing:
			return
		case provision.Pending:
			c.Stage, c.RetireAt = provision.Retiring, s.config.Now().UTC().Truncate(time.Second)
		case provision.Current, provision.Retiring:
		}
	}
	s.state.Sequence++
	s.state.Credentials = append(s.state.Credentials, provision.Credential{
		Name: fmt.Sprintf("%s%d", s.want.Owner.CredentialPrefix(), s.state.Sequence), Stage: provision.Issuing,
	})
}
