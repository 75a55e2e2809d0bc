// SPDX-License-Identifier: Apache-2.0

// Package verdict decides what becomes of an access token that was issued and is not
// published yet: whether pods get it now, whether it waits for a key or for the API's
// pods, or whether it is discarded. The token reconciler gathers the facts, asks for the
// verdict and carries it out. The package is pure: it knows neither Kubernetes nor the
// clock.
package verdict

import (
	"time"

	"github.com/m2m-operator/m2m-operator/internal/delivery"
	"github.com/m2m-operator/m2m-operator/internal/jwks"
	"github.com/m2m-operator/m2m-operator/internal/refresh"
)

const (
	// KeyPatience is how long a key may be unknown before that is a failure: the keys
	// are just being fetched.
	KeyPatience = 15 * time.Second

	// RevokedHold is how long a token at most lets the bundle go first when the key of
	// its predecessor is revoked. Nothing works meanwhile, so it is short.
	RevokedHold = 5 * time.Second
	// RevokedPoll is how often that bundle is looked at.
	RevokedPoll = 50 * time.Millisecond
)

// Candidate is a token that was issued, and what is known about it.
type Candidate struct {
	Now      time.Time
	IssuedAt time.Time

	// Refused is why the API would refuse the token, nil if it would accept it.
	Refused *jwks.VerifyError

	Predecessor Predecessor
	Last        Failure
	Attempt     Attempt

	// Look is when to look again whether the API's pods have what Awaits names, the
	// zero time if they have.
	Look time.Time
}

// Predecessor is the token in the client's Secret.
type Predecessor struct {
	ExpiresAt time.Time // zero: there is none
	Works     bool      // pods can use it for now
	Revoked   bool      // the server's owner revoked its key
}

// Failure is how the last attempt to get a token failed.
type Failure struct {
	Reason string // empty: it did not fail
	// Stands reports that nothing changed since on which the attempt depends, and that
	// the next attempt is not due.
	Stands bool
}

// Attempt is what the time of the next attempt depends on.
type Attempt struct {
	Number int           // how often in a row it failed, this time included
	Left   time.Duration // the remaining life of the token that works, zero if none does
	Seed   string
}

// Next returns when to try again. A status holds whole seconds, so the time is rounded
// up. No token that works expires untried.
func (t Attempt) Next(now time.Time, b refresh.Backoff, retryAfter time.Duration) time.Time {
	return now.Add(b.Within(t.Left).Next(t.Number, retryAfter, t.Seed) + time.Second - 1)
}

// Action is what to do with a candidate.
type Action string

// The actions.
const (
	Publish Action = "Publish" // pods get it
	Hold    Action = "Hold"    // keep it, and decide again at Until
	Retry   Action = "Retry"   // keep it; the attempt failed, and the next one is at Until
	Discard Action = "Discard" // drop it; the attempt failed, and the next one is at Until
	Wait    Action = "Wait"    // keep it; the last failure stands
)

// Verdict is what becomes of a candidate.
type Verdict struct {
	Action Action
	Until  time.Time

	// PublishAt is when a token on hold is published, or given up, at the latest.
	PublishAt time.Time
	// NoKey reports that a token on hold waits for its key to become known while the
	// client has no token that works.
	NoKey bool
}

// Awaited is what a token lets go first.
type Awaited int

// What a token may let go first.
const (
	Nothing  Awaited = iota
	Delivery         // the API's pods have what they verify the token with
	Bundle           // every bundle has the key, and the pods that can be touched were
)

// Awaits returns what the caller has to look at before it asks for the verdict. Looking
// costs reads, which most tokens do without.
func (c *Candidate) Awaits() Awaited {
	switch {
	case c.Refused != nil:
		return Nothing
	case c.Predecessor.Works && c.Now.Before(c.publishBy()):
		return Delivery
	case c.Predecessor.Revoked && c.Now.Before(c.IssuedAt.Add(RevokedHold)):
		return Bundle
	}
	return Nothing
}

// Of returns the verdict on a token.
func Of(c *Candidate) Verdict {
	switch {
	case c.Refused != nil && c.Refused.Reason == jwks.ReasonUnknownKey:
		return c.unknownKey()
	case c.Refused != nil:
		return Verdict{Action: Discard, Until: c.retryAt()}
	case c.Look.IsZero():
		return Verdict{Action: Publish}
	}
	return c.hold(c.Look)
}

// unknownKey returns the verdict on a token whose key is not known. The first time, it
// waits for the keys that are being fetched.
func (c *Candidate) unknownKey() Verdict {
	patience := c.IssuedAt.Add(KeyPatience)
	switch {
	case c.Last.Reason == jwks.ReasonUnknownKey || !c.Now.Before(patience):
		if c.Last.Stands {
			return Verdict{Action: Wait}
		}
		return Verdict{Action: Retry, Until: c.retryAt()}
	case c.Predecessor.Works:
		return c.hold(c.Now.Add(delivery.Poll))
	}
	return Verdict{Action: Hold, Until: c.Now.Add(delivery.Poll), PublishAt: patience, NoKey: true}
}

func (c *Candidate) hold(look time.Time) Verdict {
	at := c.publishBy()
	return Verdict{Action: Hold, Until: delivery.Sooner(look, at), PublishAt: at}
}

// publishBy returns when the token is published at the latest, whether or not the API's
// pods have what they verify it with: its predecessor must not expire meanwhile.
func (c *Candidate) publishBy() time.Time {
	return delivery.PublishBy(c.IssuedAt, c.Predecessor.ExpiresAt)
}

func (c *Candidate) retryAt() time.Time {
	return c.Attempt.Next(c.Now, refresh.RefusalBackoff, 0)
}
