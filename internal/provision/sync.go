// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// Rotation is when to replace a client's credential.
type Rotation struct {
	// Every is the age at which to replace it; 0 for never.
	Every time.Duration
	// Overlap is how long the replaced one stays valid. It is shorter if more than three would be alive.
	Overlap time.Duration
	// Request asks for a replacement now, once for each value; "" asks for none. Only a credential whose secret nobody
	// knew at the time of the request fulfils it. The first credential fulfils all earlier requests.
	Request string
}

const (
	// expiryLead is how long before its expiry a credential is replaced, whatever Every says, but no more than a
	// quarter of its life.
	expiryLead = 24 * time.Hour
	// leastAge keeps every call from asking for another secret if the server's clock is far behind, or its secrets live
	// for seconds.
	leastAge = time.Minute
	// patience is how long after its issue a new credential may be refused. Servers that replicate their data need a
	// while. A credential that does not work by then is given up for another one.
	patience = time.Hour
	// mostCredentials bounds how many credentials of a client are alive, including the one being issued. Rotations in
	// quick succession end the overlap of the oldest early.
	mostCredentials = 3
)

// Probe asks for a token with a credential and returns why there was none: an *Error, of kind Refused if the server did
// not accept the credential. It is not called for a client without access.
type Probe func(ctx context.Context, state *ClientState, c *Credential) error

// SyncClient brings a client at the server and its credentials up to date. It calls Driver.SyncClient and then takes
// the steps of a credential's life:
//
//	named ─keep→ issued ─keep→ tried by a real token request ─keep→ in use, its predecessor retiring ─overlap→ revoked
//
// A client that should have no access gets no credential, and a new one does not advance, because neither could be
// tried. What it has is kept for when it has access again.
//
// It returns when the credentials need the next call, zero for never. If the credentials fail, the access is still as
// it should be.
func SyncClient(ctx context.Context, d Driver, want Client, state *ClientState, rotation Rotation, keep Keep, probe Probe, now time.Time) (drift []Drift, next time.Time, err error) {
	if drift, err = d.SyncClient(ctx, want, state, keep); err != nil {
		return drift, time.Time{}, err
	}
	if err = keep(ctx); err != nil {
		return drift, time.Time{}, err
	}
	s := credentials{d: d, want: want, state: state, rotation: rotation, keep: keep, probe: probe, now: now.UTC()}
	if err = s.sync(ctx); err != nil {
		return drift, time.Time{}, err
	}
	return drift, s.next(), nil
}

// RemoveClient calls Driver.RemoveClient, and then clears the state except for what was left behind.
func RemoveClient(ctx context.Context, d Driver, want Client, state *ClientState, keep Keep) error {
	if err := d.RemoveClient(ctx, want, state, keep); err != nil {
		return err
	}
	*state = ClientState{LeftBehind: state.LeftBehind}
	return keep(ctx)
}

// credentials is the state of one call for a client's credentials.
type credentials struct {
	d        Driver
	want     Client
	state    *ClientState
	rotation Rotation
	keep     Keep
	probe    Probe
	now      time.Time
}

func (s *credentials) sync(ctx context.Context) error {
	if len(s.want.Access) == 0 {
		return s.revoke(ctx, mostCredentials)
	}
	if c := s.coming(); c != nil && c.Stage == Pending && (s.asked(c.Request) || s.past(rotateAt(c, Rotation{}))) {
		s.giveUp(c)
	}
	room := mostCredentials
	if s.wanted() {
		room--
	}
	// Nothing new is made while the server refuses to revoke something old, except for a client without any credential.
	stuck := s.revoke(ctx, room)
	if stuck != nil && (KindOf(stuck) == "" || s.state.Current() != nil) {
		return stuck
	}
	for _, step := range []func(context.Context) error{s.name, s.issue, s.try} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if stuck != nil {
		return stuck
	}
	return s.revoke(ctx, mostCredentials)
}

// coming returns the credential that will become the current one, nil if there is none.
func (s *credentials) coming() *Credential {
	for i := range s.state.Credentials {
		if c := &s.state.Credentials[i]; c.Stage == Issuing || c.Stage == Pending {
			return c
		}
	}
	return nil
}

// wanted reports whether another credential should be made.
func (s *credentials) wanted() bool {
	if s.coming() != nil {
		return false
	}
	c := s.state.Current()
	return c == nil || s.asked(s.state.Rotation) || s.past(rotateAt(c, s.rotation))
}

// asked reports whether there is a request other than the one that was fulfilled.
func (s *credentials) asked(answered string) bool {
	return s.rotation.Request != "" && s.rotation.Request != answered
}

func (s *credentials) past(at time.Time) bool { return !at.IsZero() && !s.now.Before(at) }

// giveUp schedules a credential that was never in use for revocation. The reason to make it still holds, so another one
// is made.
func (s *credentials) giveUp(c *Credential) {
	c.Stage, c.RetireAt = Retiring, s.now.Truncate(time.Second)
}

func (s *credentials) name(ctx context.Context) error {
	if !s.wanted() {
		return nil
	}
	s.state.Sequence++
	s.state.Credentials = append(s.state.Credentials, Credential{
		Name:  fmt.Sprintf("%s%d", s.want.Owner.CredentialPrefix(), s.state.Sequence),
		Stage: Issuing,
	})
	return s.keep(ctx)
}

func (s *credentials) issue(ctx context.Context) error {
	c := s.coming()
	if c == nil || c.Stage != Issuing {
		return nil
	}
	c.Request = cmp.Or(s.rotation.Request, s.state.Rotation)
	before := c.Attempted
	if !before {
		// Record this before the request, so that the next call knows of it if this one does not see the answer.
		c.Attempted = true
		if err := s.keep(ctx); err != nil {
			return err
		}
		c.Attempted = false
	}
	err := s.d.Issue(ctx, s.want, s.state, c)
	c.Attempted = true
	if KindOf(err) == Refused && !before { // the server answered, and made nothing
		c.Attempted = false
		if kept := s.keep(ctx); kept != nil {
			return kept
		}
	}
	if err != nil {
		return err
	}
	c.Stage, c.IssuedAt = Pending, s.now.Truncate(time.Second)
	s.state.ID = cmp.Or(s.state.ID, c.ClientID)
	return s.keep(ctx)
}

// try puts a new credential to use once it has brought a token.
func (s *credentials) try(ctx context.Context) error {
	c := s.coming()
	if c == nil || len(s.state.Access) == 0 {
		return nil
	}
	if err := s.probe(ctx, s.state, c); err != nil {
		if KindOf(err) == Refused && s.past(c.IssuedAt.Add(patience)) {
			s.giveUp(c)
			if kept := s.keep(ctx); kept != nil {
				return kept
			}
		}
		return err
	}
	if old := s.state.Current(); old != nil {
		old.Stage, old.RetireAt = Retiring, s.now.Add(s.rotation.Overlap).Truncate(time.Second)
	}
	c.Stage, s.state.ID, s.state.Rotation = Current, c.ClientID, c.Request
	return s.keep(ctx)
}

// revoke revokes the retiring credentials whose time has come, and then the oldest other retiring ones while more than
// most credentials are left.
func (s *credentials) revoke(ctx context.Context, most int) error {
	for {
		i := slices.IndexFunc(s.state.Credentials, func(c Credential) bool { return c.Stage == Retiring && s.past(c.RetireAt) })
		if i < 0 && len(s.state.Credentials) > most {
			i = slices.IndexFunc(s.state.Credentials, func(c Credential) bool { return c.Stage == Retiring })
		}
		if i < 0 {
			return nil
		}
		if err := s.d.Revoke(ctx, s.want, s.state, &s.state.Credentials[i]); err != nil {
			return err
		}
		s.state.Credentials = slices.Delete(s.state.Credentials, i, i+1)
		if err := s.keep(ctx); err != nil {
			return err
		}
	}
}

// next returns when a credential must next be replaced or revoked, zero for never.
func (s *credentials) next() time.Time {
	var next time.Time
	sooner := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for i := range s.state.Credentials {
		if c := &s.state.Credentials[i]; c.Stage == Retiring {
			sooner(c.RetireAt)
		}
	}
	// While its successor waits to be tried, the current one is not replaced. Without access, nothing is.
	if c := s.coming(); c != nil && len(s.want.Access) > 0 {
		sooner(rotateAt(c, Rotation{}))
	} else if c := s.state.Current(); c != nil && len(s.want.Access) > 0 {
		sooner(rotateAt(c, s.rotation))
	}
	return next
}

// NextStep returns when the credentials need the next SyncClient, zero for never.
func NextStep(want Client, state *ClientState, rotation Rotation) time.Time {
	s := credentials{want: want, state: state, rotation: rotation}
	return s.next()
}

// rotateAt returns when the age of a credential requires its replacement, zero for never.
func rotateAt(c *Credential, rotation Rotation) time.Time {
	var at time.Time
	if rotation.Every > 0 {
		at = c.IssuedAt.Add(rotation.Every)
	}
	if !c.ExpiresAt.IsZero() {
		before := c.ExpiresAt.Add(-min(expiryLead, c.ExpiresAt.Sub(c.IssuedAt)/4))
		if at.IsZero() || before.Before(at) {
			at = before
		}
	}
	if least := c.IssuedAt.Add(leastAge); !at.IsZero() && at.Before(least) {
		at = least
	}
	return at
}

// RotateAt returns when the current credential must be replaced, zero for never.
func RotateAt(state *ClientState, rotation Rotation) time.Time {
	if c := state.Current(); c != nil {
		return rotateAt(c, rotation)
	}
	return time.Time{}
}
