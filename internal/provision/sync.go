// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Rotation says when a client's credential is replaced.
type Rotation struct {
	// Every is the age at which it is replaced; 0 for never.
	Every time.Duration
	// Overlap is how long the replaced one stays valid.
	Overlap time.Duration
	// Request asks for a replacement now, once for each value; "" asks for none.
	Request string
}

// expiryLead is how long before its expiry a credential is replaced whatever Every says, at most; a quarter of its
// life is the other bound.
const expiryLead = 24 * time.Hour

// Probe asks for a token with a credential and returns why there was none: an *Error, Refused where the server did not
// take the credential. It is not called for a client without access.
type Probe func(ctx context.Context, state *ClientState, c *Credential) error

// SyncClient brings a client at the server and its credentials up to date: it is Driver.SyncClient and one step after
// another of the credential's life.
//
//	named ─keep→ issued ─keep→ tried by a real token request ─keep→ in use, its predecessor retiring ─overlap→ revoked
//
// It returns when it should be called again for the credentials' sake, zero for no such time. An error of the
// credentials leaves the access as it should be.
func SyncClient(ctx context.Context, d Driver, want Client, state *ClientState, rotation Rotation, keep Keep, probe Probe, now time.Time) (drift []Drift, next time.Time, err error) {
	if drift, err = d.SyncClient(ctx, want, state, keep); err != nil {
		return drift, time.Time{}, err
	}
	if err = keep(ctx); err != nil {
		return drift, time.Time{}, err
	}
	if err = syncCredentials(ctx, d, want, state, rotation, keep, probe, now); err != nil {
		return drift, time.Time{}, err
	}
	return drift, nextStep(state, rotation), nil
}

func syncCredentials(ctx context.Context, d Driver, want Client, state *ClientState, rotation Rotation, keep Keep, probe Probe, now time.Time) error {
	if len(state.Credentials) == 0 && len(want.Access) == 0 {
		return nil // a secret that could ask for nothing
	}
	newest := func() *Credential { return &state.Credentials[len(state.Credentials)-1] }
	if len(state.Credentials) == 0 || newest().Stage == Retiring || newest().Stage == Current && due(newest(), state, rotation, now) {
		state.Sequence++
		state.Credentials = append(state.Credentials, Credential{
			Name: fmt.Sprintf("%s%d", want.Owner.CredentialPrefix(), state.Sequence), Stage: Issuing,
		})
		state.Rotation = rotation.Request
		if err := keep(ctx); err != nil {
			return err
		}
	}
	if c := newest(); c.Stage == Issuing {
		if err := issue(ctx, d, want, state, c, keep, now); err != nil {
			return err
		}
	}
	if c := newest(); c.Stage == Pending && len(state.Access) > 0 {
		if err := probe(ctx, state, c); err != nil {
			return err
		}
		for i := range state.Credentials {
			if old := &state.Credentials[i]; old.Stage == Current {
				old.Stage, old.RetireAt = Retiring, now.Add(rotation.Overlap).UTC().Truncate(time.Second)
			}
		}
		c.Stage, state.ID = Current, c.ClientID
		if err := keep(ctx); err != nil {
			return err
		}
	}
	return revokeRetired(ctx, d, want, state, keep, now)
}

func issue(ctx context.Context, d Driver, want Client, state *ClientState, c *Credential, keep Keep, now time.Time) error {
	if !c.Attempted {
		// Recorded before the request, so that the next call knows of it if this one does not see the answer.
		c.Attempted = true
		if err := keep(ctx); err != nil {
			return err
		}
		c.Attempted = false
	}
	err := d.Issue(ctx, want, state, c)
	c.Attempted = true
	if err != nil {
		return err
	}
	c.Stage, c.IssuedAt = Pending, now.UTC().Truncate(time.Second)
	if state.ID == "" {
		state.ID = c.ClientID
	}
	return keep(ctx)
}

func revokeRetired(ctx context.Context, d Driver, want Client, state *ClientState, keep Keep, now time.Time) error {
	for i := 0; i < len(state.Credentials); {
		c := &state.Credentials[i]
		if c.Stage != Retiring || now.Before(c.RetireAt) {
			i++
			continue
		}
		if err := d.Revoke(ctx, want, state, c); err != nil {
			return err
		}
		state.Credentials = slices.Delete(state.Credentials, i, i+1)
		if err := keep(ctx); err != nil {
			return err
		}
	}
	return nil
}

// due says whether a credential is to be replaced.
func due(c *Credential, state *ClientState, rotation Rotation, now time.Time) bool {
	if rotation.Request != "" && rotation.Request != state.Rotation {
		return true
	}
	at := rotateAt(c, rotation)
	return !at.IsZero() && !now.Before(at)
}

// rotateAt returns when a credential is to be replaced, zero for never.
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
	return at
}

// nextStep returns when a credential is next to be replaced or revoked.
func nextStep(state *ClientState, rotation Rotation) time.Time {
	var next time.Time
	for i := range state.Credentials {
		c := &state.Credentials[i]
		var at time.Time
		switch c.Stage {
		case Current:
			at = rotateAt(c, rotation)
		case Retiring:
			at = c.RetireAt
		case Issuing, Pending:
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// RotateAt returns when the current credential is to be replaced, zero for never.
func RotateAt(state *ClientState, rotation Rotation) time.Time {
	if c := state.Current(); c != nil {
		return rotateAt(c, rotation)
	}
	return time.Time{}
}

// Missing returns the scopes of want that got does not grant, and whether it grants the API at all.
func Missing(want Access, got []Access) (scopes []string, known bool) {
	i := slices.IndexFunc(got, func(a Access) bool { return a.Resource == want.Resource })
	if i < 0 {
		return want.Scopes, false
	}
	for _, s := range want.Scopes {
		if !slices.Contains(got[i].Scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return scopes, true
}
