// SPDX-License-Identifier: Apache-2.0

// Package refresh makes the decisions that depend on time: when to replace a
// token, whether it must be minted now, whether pods may go on using it, and how
// long to wait after a failure. It reads no clock and does no I/O: the present time
// is an argument and what is known about a token is a value, so the answers are the
// same after every restart.
package refresh

import (
	"encoding/binary"
	"time"
)

const (
	// DefaultAtPercent is the share of its lifetime after which a token is
	// refreshed unless its owner says otherwise.
	DefaultAtPercent = 67

	// maxAtPercent leaves some room for a refresh that fails at first.
	maxAtPercent = 95

	// MinLead is the least time between a refresh and the expiry of the old
	// token, where its lifetime is at least twice as long: a kubelet takes up
	// to a minute and a half to show a changed Secret.
	MinLead = 2 * time.Minute

	// MinInterval is the floor of every plan: no token is due sooner after its
	// issue, however short its lifetime is and whatever its owner asked for. It
	// overrides every other rule: a token that lives for a second, or has expired
	// when it comes, is due after its expiry rather than at once.
	MinInterval = time.Second

	// jitterShare is the divisor of the lifetime that bounds the jitter: 10 %.
	jitterShare = 10
)

// Policy is an owner's choice of when in its lifetime a token is refreshed. The
// zero value refreshes at DefaultAtPercent.
type Policy struct {
	// AtPercent is the share of the lifetime after which to refresh, 1 to 95.
	// Zero or less means DefaultAtPercent, more than 95 means 95.
	AtPercent int

	// Before, if positive, is how long before the expiry to refresh, and
	// overrides AtPercent. It is capped at half of the lifetime: a token that is
	// refreshed earlier is mostly wasted.
	Before time.Duration
}

// Plan is when to refresh a token.
type Plan struct {
	// RefreshAt is when the token becomes due, in whole seconds.
	RefreshAt time.Time

	// ShortLived means that the lifetime is shorter than twice MinLead: pods may
	// see the token expire before its successor reaches them.
	ShortLived bool
}

// Plan returns when a token that was issued at issuedAt and expires at expiresAt
// is due.
//
// It starts from the moment that the policy names, and moves it forward so that
// MinLead remains before the expiry. If the lifetime is shorter than four minutes,
// half of it remains, and the plan is ShortLived. Then it subtracts a jitter that
// spreads tokens minted together. The jitter is derived from seed (the object's UID
// and the token's key) and so is stable, and it is at most 10 % of the lifetime and
// at most half of the wait. Last, it applies the floor, MinInterval after the issue.
// The result is in whole seconds, rounded down unless that would break the floor.
func (p Policy) Plan(issuedAt, expiresAt time.Time, seed string) Plan {
	lifetime := max(expiresAt.Sub(issuedAt), 0)

	lead := min(MinLead, lifetime/2)
	wait := min(p.wait(lifetime), lifetime-lead)
	// Without the second bound the jitter could use up all of a small AtPercent,
	// and the token would be due at once.
	jitter := min(lifetime/jitterShare, wait/2)
	wait -= time.Duration(float64(jitter) * fraction(seed))

	at := issuedAt.Add(wait).Truncate(time.Second)
	if floor := issuedAt.Add(MinInterval); at.Before(floor) {
		at = floor.Add(time.Second - time.Nanosecond).Truncate(time.Second)
	}
	return Plan{RefreshAt: at, ShortLived: lifetime < 2*MinLead}
}

// wait returns how long after its issue the owner wants a token refreshed.
func (p Policy) wait(lifetime time.Duration) time.Duration {
	if p.Before > 0 {
		return lifetime - min(p.Before, lifetime/2)
	}
	percent := p.AtPercent
	if percent <= 0 {
		percent = DefaultAtPercent
	}
	// Divide first: a lifetime of many years times 95 would overflow.
	return lifetime / 100 * time.Duration(min(percent, maxAtPercent))
}

// fraction maps a seed evenly onto [0, 1).
func fraction(parts ...string) float64 {
	sum := digest(parts...)
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}
